//! Storage of open sockets, each under an index and a generation.

pub use serve::SocketId;

/// Generations wrap after this many uses of one index; a completion cannot be that old.
const GENERATION_MASK: u32 = 0x00ff_ffff;

/// Owned by one reactor. Grows to the greatest number of sockets ever open at once.
#[derive(Debug)]
pub(crate) struct Slots<T> {
    places: Vec<(u32, Option<T>)>,
    free: Vec<u32>,
}

impl<T> Slots<T> {
    pub(crate) fn new() -> Self {
        Self { places: Vec::new(), free: Vec::new() }
    }

    pub(crate) fn insert(&mut self, value: T) -> SocketId {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push((0, None));
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        assert!(place.1.is_none(), "a free place holds nothing");
        place.1 = Some(value);
        SocketId { index, generation: place.0 }
    }

    pub(crate) fn remove(&mut self, id: SocketId) -> Option<T> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.0 != id.generation {
            return None;
        }
        let value = place.1.take()?;
        place.0 = (place.0 + 1) & GENERATION_MASK;
        self.free.push(id.index);
        Some(value)
    }

    pub(crate) fn find(&mut self, id: SocketId) -> Option<&mut T> {
        let place = self.places.get_mut(id.index as usize)?;
        if place.0 == id.generation { place.1.as_mut() } else { None }
    }

    /// The ids of all occupied places.
    pub(crate) fn ids(&self) -> Vec<SocketId> {
        let occupied = self.places.iter().enumerate().filter(|(_, place)| place.1.is_some());
        occupied
            .map(|(index, place)| SocketId { index: index as u32, generation: place.0 })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_index_does_not_answer_to_its_old_id() {
        let mut slots = Slots::new();
        let first = slots.insert('a');
        assert_eq!(slots.remove(first), Some('a'));
        let second = slots.insert('b');
        assert_eq!(second.index, first.index);
        assert!(slots.find(first).is_none());
        assert!(slots.remove(first).is_none());
        assert_eq!(slots.find(second), Some(&mut 'b'));
        assert_eq!(slots.ids(), vec![second]);
    }
}
