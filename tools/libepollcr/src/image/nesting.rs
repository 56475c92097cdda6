// SPDX-License-Identifier: GPL-2.0

//! Epoll instances that are targets of others.

use super::{Image, Item, Kind};

#[derive(Clone, Copy, PartialEq)]
enum State {
    New,
    /// It is on the path from the instance that the search began with.
    Open,
    Done,
}

impl Image {
    /// The epoll instances by the indexes of their files, each after those that are its
    /// targets; or one that is a target of itself, directly or not.
    ///
    /// The depth of the search is bounded by memory, not by the stack: an image can have
    /// any depth. A target whose file is not in the image is passed over.
    pub(crate) fn innermost_first(&self) -> Result<Vec<usize>, usize> {
        let mut states = vec![State::New; self.files.len()];
        let mut order = Vec::new();
        // The instances that are open, each with the index of its next target.
        let mut path: Vec<(usize, usize)> = Vec::new();
        for first in 0..self.files.len() {
            if states[first] == State::New && self.targets(first).is_some() {
                states[first] = State::Open;
                path.push((first, 0));
            }
            while let Some((instance, next)) = path.last_mut() {
                let Some(item) = self.targets(*instance).and_then(|items| items.get(*next)) else {
                    states[*instance] = State::Done;
                    order.push(*instance);
                    path.pop();
                    continue;
                };
                *next += 1;
                let inner = item.file as usize;
                if self.targets(inner).is_none() {
                    continue;
                }
                match states[inner] {
                    State::New => {
                        states[inner] = State::Open;
                        path.push((inner, 0));
                    }
                    State::Open => return Err(inner),
                    State::Done => {}
                }
            }
        }
        Ok(order)
    }

    /// The interest list of a file, if it is an epoll instance.
    fn targets(&self, file: usize) -> Option<&[Item]> {
        match &self.files.get(file)?.kind {
            Kind::Epoll { items } => Some(items),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::OpenFile;

    /// Instances with these targets, and one eventfd at the end.
    fn image(instances: &[&[u32]]) -> Image {
        let item = |&file| Item {
            tfd: file,
            file,
            events: 0x19,
            data: 0,
            ready: false,
            guessed: None,
        };
        let mut image = Image::default();
        for targets in instances {
            let items = targets.iter().map(item).collect();
            image.files.push(OpenFile::new(Kind::Epoll { items }, 2));
        }
        let (count, semaphore) = (0, false);
        let counter = Kind::EventFd { count, semaphore };
        image.files.push(OpenFile::new(counter, 2));
        image
    }

    #[test]
    fn inner_instances_come_first() {
        let image = image(&[&[2, 4], &[0, 2], &[3, 3], &[4]]);
        assert_eq!(image.innermost_first(), Ok(vec![3, 2, 0, 1]));
    }

    #[test]
    fn a_circle_is_found() {
        assert_eq!(image(&[&[0]]).innermost_first(), Err(0));
        assert_eq!(image(&[&[1], &[2], &[3, 1]]).innermost_first(), Err(1));
    }
}
