// SPDX-License-Identifier: GPL-2.0

//! The bytes of an image: a head of fixed size, and CBOR (RFC 8949).

use super::{Image, Invalid};
use minicbor::encode::write::Writer;
use std::fmt;
use std::io::{self, Read, Write};

/// What an image begins with.
const MAGIC: [u8; 8] = *b"EPOLLCR\n";

/// The version that is written, and the only one that is read. What can be
/// ignored by those who do not know it does not change it.
pub const VERSION: u32 = 1;

/// Magic number, version, checksum and length of the body, little-endian.
const HEAD: usize = 24;

/// How much is read at one time: a length that is not true costs no more.
const STEP: u64 = 1 << 20;

/// Why an image cannot be read.
#[derive(Debug)]
pub enum Error {
    /// Of the reader.
    Io(io::Error),
    /// It begins otherwise than an image does.
    NoImage,
    /// It is of another version.
    Version(u32),
    /// It ends before it should.
    Truncated,
    /// There is more than there should be.
    TooLong,
    /// The checksum is not that of the contents.
    Checksum,
    /// The contents are not CBOR, or not what the schema says.
    Malformed(minicbor::decode::Error),
    /// The contents do not hold together.
    Invalid(Invalid),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "it cannot be read: {error}"),
            Self::NoImage => f.write_str("this is no image of epollcr"),
            Self::Version(version) => write!(
                f,
                "the image has version {version}, and only version {VERSION} can be read"
            ),
            Self::Truncated => f.write_str("the image is cut off"),
            Self::TooLong => f.write_str("there is something behind the end of the image"),
            Self::Checksum => {
                f.write_str("the image is damaged: its checksum is not that of its contents")
            }
            Self::Malformed(error) => write!(f, "the image does not follow its schema: {error}"),
            Self::Invalid(error) => write!(f, "the image contradicts itself: {error}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Malformed(error) => Some(error),
            Self::Invalid(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl Image {
    /// Reads an image, and checks it.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`]; each is a sentence.
    ///
    /// ```
    /// use libepollcr::image::Image;
    ///
    /// let mut bytes = Vec::new();
    /// Image::default().write(&mut bytes)?;
    /// assert_eq!(Image::read(&bytes[..])?, Image::default());
    ///
    /// *bytes.last_mut().unwrap() ^= 1;
    /// assert_eq!(
    ///     Image::read(&bytes[..]).unwrap_err().to_string(),
    ///     "the image is damaged: its checksum is not that of its contents"
    /// );
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn read(mut reader: impl Read) -> Result<Self, Error> {
        let mut head = Vec::with_capacity(HEAD);
        reader.by_ref().take(HEAD as u64).read_to_end(&mut head)?;
        let known = head.len().min(MAGIC.len());
        if head[..known] != MAGIC[..known] || head.is_empty() {
            return Err(Error::NoImage);
        }
        if head.len() < HEAD {
            return Err(Error::Truncated);
        }
        let version = word(&head, 8);
        if version != VERSION {
            return Err(Error::Version(version));
        }
        let sum = word(&head, 12);
        let mut left = u64::from(word(&head, 16)) | u64::from(word(&head, 20)) << 32;

        let mut body = Vec::new();
        while left > 0 {
            let step = left.min(STEP);
            let got = reader.by_ref().take(step).read_to_end(&mut body)? as u64;
            if got < step {
                return Err(Error::Truncated);
            }
            left -= step;
        }
        if reader.take(1).read_to_end(&mut head)? > 0 {
            return Err(Error::TooLong);
        }
        if crc32fast::hash(&body) != sum {
            return Err(Error::Checksum);
        }
        Self::from_body(&body)
    }

    fn from_body(body: &[u8]) -> Result<Self, Error> {
        let mut decoder = minicbor::Decoder::new(body);
        let image: Self = decoder.decode().map_err(Error::Malformed)?;
        if decoder.position() != body.len() {
            return Err(Error::TooLong);
        }
        image.check().map_err(Error::Invalid)?;
        Ok(image)
    }

    /// Writes the image.
    ///
    /// # Errors
    ///
    /// `InvalidData` with [`Invalid`] inside if it could not be read again; those
    /// of the writer.
    pub fn write(&self, mut writer: impl Write) -> io::Result<()> {
        self.check()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut body = Vec::new();
        minicbor::encode(self, Writer::new(&mut body)).map_err(io::Error::other)?;
        writer.write_all(&head(&body))?;
        writer.write_all(&body)?;
        writer.flush()
    }
}

fn head(body: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend(MAGIC);
    head.extend(VERSION.to_le_bytes());
    head.extend(crc32fast::hash(body).to_le_bytes());
    head.extend((body.len() as u64).to_le_bytes());
    head
}
