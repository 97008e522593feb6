//! How many bytes of records may wait in the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that records may take while they wait.
#[derive(Debug)]
pub struct Room {
    used: AtomicUsize,
    max: usize,
}

/// A part of the room, given back when it is dropped.
#[derive(Debug)]
pub struct Held {
    room: Arc<Room>,
    bytes: usize,
}

impl Room {
    /// An empty room of this many bytes.
    #[must_use]
    pub fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            used: AtomicUsize::new(0),
            max,
        })
    }

    /// Nothing of the room yet.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Held {
        Held {
            room: Arc::clone(self),
            bytes: 0,
        }
    }
}

impl Held {
    /// Takes more bytes; false: too much waits. Whoever is alone gets all that it asks for: the
    /// limits of one request bound it.
    #[must_use]
    pub fn grow(&mut self, more: usize) -> bool {
        let (own, max) = (self.bytes, self.room.max);
        let taken = self
            .room
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |used| {
                (used <= own || used + more <= max).then_some(used + more)
            });
        if taken.is_ok() {
            self.bytes += more;
        }
        taken.is_ok()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_bounded_and_one_alone_always_fits() {
        let room = Room::new(100);
        let (mut one, mut two) = (room.hold(), room.hold());
        assert!(one.grow(60) && one.grow(90));
        assert!(!two.grow(1));
        drop(one);
        assert!(two.grow(60));
        let mut three = room.hold();
        assert!(three.grow(40) && !three.grow(1) && !two.grow(1));
        drop((two, three));
        assert_eq!(room.used.load(Ordering::Relaxed), 0);
    }
}
