// SPDX-License-Identifier: GPL-2.0

//! The encoding of an image: a head of fixed size, and CBOR (RFC 8949).

use super::{Image, Invalid, Kind};
use minicbor::encode::write::Writer;
use std::io::{self, Read, Write};

/// The magic number.
const MAGIC: [u8; 8] = *b"EPOLLCR\n";

/// The newest version of the format. All versions are read, and the first one is written
/// that has what an image needs: version 2 has
/// [`Kind::Memory`], [`Kind::Listener`] and [`Kind::PidFd`], and version 3 has
/// [`Kind::Inotify`]. Additions that an older reader can ignore do not change it.
pub const VERSION: u32 = 3;

/// The size of the head, in bytes: magic number, version, checksum and length of the
/// body, little-endian.
const HEAD: usize = 24;

/// How many bytes are read at a time: a wrong length costs no more memory than this.
const STEP: u64 = 1 << 20;

/// Why an image cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Reading failed. The source is the error of the reader.
    #[error("the image cannot be read")]
    Io(#[from] io::Error),
    /// It does not begin as an image does.
    #[error("this is not an image of epollcr")]
    NoImage,
    /// It has a later version than [`VERSION`].
    #[error("the image has version {0}, and only versions up to {VERSION} can be read")]
    Version(u32),
    /// It ends too early.
    #[error("the image is truncated")]
    Truncated,
    /// It continues after its end.
    #[error("the image has data after its end")]
    TooLong,
    /// Its checksum is wrong.
    #[error("the image is damaged: its checksum does not match its contents")]
    Checksum,
    /// The contents do not follow the schema. The source says where.
    #[error("the image does not follow its schema")]
    Malformed(#[source] minicbor::decode::Error),
    /// The contents contradict themselves. The source says where.
    #[error("the image contradicts itself")]
    Invalid(#[source] Invalid),
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

impl Image {
    /// The first version of the format that has what this image needs.
    fn version(&self) -> u32 {
        let versions = self.files.iter().map(|file| match file.kind {
            Kind::Inotify { .. } => 3,
            Kind::Memory { .. } | Kind::Listener(_) | Kind::PidFd => 2,
            _ => 1,
        });
        versions.max().unwrap_or(1)
    }

    /// Reads an image, and checks it.
    ///
    /// # Errors
    ///
    /// See [`enum@Error`].
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
    ///     "the image is damaged: its checksum does not match its contents"
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
        if version == 0 || version > VERSION {
            return Err(Error::Version(version));
        }
        let sum = word(&head, 12);
        let mut left = u64::from(word(&head, 16)) | (u64::from(word(&head, 20)) << 32);

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

    /// Checks the image and writes it.
    ///
    /// # Errors
    ///
    /// - `InvalidData`, with [`Invalid`] inside, if the image contradicts itself and
    ///   could not be read
    /// - those of the writer
    pub fn write(&self, mut writer: impl Write) -> io::Result<()> {
        self.check()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut body = Vec::new();
        minicbor::encode(self, Writer::new(&mut body)).map_err(io::Error::other)?;
        writer.write_all(&head(self.version(), &body))?;
        writer.write_all(&body)?;
        writer.flush()
    }
}

fn head(version: u32, body: &[u8]) -> Vec<u8> {
    let mut head = Vec::with_capacity(HEAD);
    head.extend(MAGIC);
    head.extend(version.to_le_bytes());
    head.extend(crc32fast::hash(body).to_le_bytes());
    head.extend((body.len() as u64).to_le_bytes());
    head
}
