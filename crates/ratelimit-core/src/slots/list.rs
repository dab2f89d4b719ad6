//! Lists through the places of a slice. Zeroed memory is an empty list, and a pool of which nothing was taken.

/// A place of a slice, or none. The memory is mapped at different addresses, so places are numbers.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Link(u32);

impl Link {
    const NONE: Link = Link(0);

    pub(super) fn to(place: usize) -> Self {
        Link(u32::try_from(place).map_or(0, |place| place.wrapping_add(1)))
    }

    pub(super) fn get(self) -> Option<usize> {
        (self.0 as usize).checked_sub(1)
    }
}

/// Who stands before and behind an element of a list.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Links {
    previous: Link,
    next: Link,
}

/// What can be in one list at a time.
pub(super) trait Linked {
    fn links(&mut self) -> &mut Links;
    fn next(&self) -> Option<usize>;
}

macro_rules! linked {
    ($type:ty) => {
        impl Linked for $type {
            fn links(&mut self) -> &mut Links {
                &mut self.links
            }
            fn next(&self) -> Option<usize> {
                self.links.next()
            }
        }
    };
}
pub(super) use linked;

impl Links {
    pub(super) fn next(self) -> Option<usize> {
        self.next.get()
    }
}

/// A doubly linked list: everything but walking it takes the same short time.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct List {
    first: Link,
    last: Link,
}

impl List {
    pub(super) fn first(self) -> Option<usize> {
        self.first.get()
    }

    pub(super) fn is_empty(self) -> bool {
        self.first == Link::NONE
    }

    pub(super) fn push_front<N: Linked>(&mut self, nodes: &mut [N], place: usize) {
        self.insert(nodes, place, Links { previous: Link::NONE, next: self.first });
    }

    pub(super) fn push_back<N: Linked>(&mut self, nodes: &mut [N], place: usize) {
        self.insert(nodes, place, Links { previous: self.last, next: Link::NONE });
    }

    fn insert<N: Linked>(&mut self, nodes: &mut [N], place: usize, between: Links) {
        let Some(node) = nodes.get_mut(place) else { return };
        *node.links() = between;
        self.set_next(nodes, between.previous, Link::to(place));
        self.set_previous(nodes, between.next, Link::to(place));
    }

    /// Takes out an element, which must be in this list.
    pub(super) fn remove<N: Linked>(&mut self, nodes: &mut [N], place: usize) {
        let Some(node) = nodes.get_mut(place) else { return };
        let Links { previous, next } = core::mem::take(node.links());
        self.set_next(nodes, previous, next);
        self.set_previous(nodes, next, previous);
    }

    fn set_next<N: Linked>(&mut self, nodes: &mut [N], of: Link, to: Link) {
        match of.get().and_then(|place| nodes.get_mut(place)) {
            Some(node) => node.links().next = to,
            None => self.first = to,
        }
    }

    fn set_previous<N: Linked>(&mut self, nodes: &mut [N], of: Link, to: Link) {
        match of.get().and_then(|place| nodes.get_mut(place)) {
            Some(node) => node.links().previous = to,
            None => self.last = to,
        }
    }
}

/// Which places of a slice are in use. Those from `touched` on never were: they need not be in the list of free ones.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pool {
    free: List,
    touched: u32,
    taken: u32,
}

impl Pool {
    pub(super) fn taken(self) -> u32 {
        self.taken
    }

    /// So many places at the beginning may be in use, no others.
    pub(super) fn touched(self) -> usize {
        self.touched as usize
    }

    /// A free place; the one that was given back last is likely to be in the processor's cache.
    pub(super) fn take<N: Linked>(&mut self, nodes: &mut [N]) -> Option<usize> {
        let place = match self.free.first() {
            Some(place) => {
                self.free.remove(nodes, place);
                place
            }
            None if self.touched() < nodes.len() => {
                self.touched += 1;
                self.touched() - 1
            }
            None => return None,
        };
        self.taken += 1;
        Some(place)
    }

    /// Takes this place, which must be free.
    pub(super) fn take_at<N: Linked>(&mut self, nodes: &mut [N], place: usize) {
        while self.touched() <= place.min(nodes.len().saturating_sub(1)) {
            self.free.push_back(nodes, self.touched());
            self.touched += 1;
        }
        self.free.remove(nodes, place);
        self.taken += 1;
    }

    pub(super) fn give_back<N: Linked>(&mut self, nodes: &mut [N], place: usize) {
        self.free.push_front(nodes, place);
        self.taken = self.taken.saturating_sub(1);
    }
}
