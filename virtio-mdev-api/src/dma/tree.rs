//! Regions by address, in a B+ tree whose nodes are shared between versions: changing one region copies one node a
//! level, so that the 65,535th mapping costs what the first did, and a reader keeps its version for free.

use super::Region;
use std::sync::Arc;

/// Most items of a node. 65,535 regions are three levels.
const CAPACITY: usize = 48;

#[derive(Debug, Clone)]
enum Node {
    Leaf(Vec<Region>),
    /// Every child with the address of its first region. One that was smaller would send searches past a region of the
    /// left neighbour that reaches beyond it.
    Inner(Vec<(u64, Arc<Node>)>),
}

/// Regions that do not overlap. Cloning is cheap; a clone does not see changes.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: Arc<Node>,
    len: usize,
}

impl Default for Tree {
    fn default() -> Self {
        Self { root: Arc::new(Node::Leaf(Vec::new())), len: 0 }
    }
}

impl Tree {
    pub fn len(&self) -> usize {
        self.len
    }

    /// The region that contains `iova`.
    #[inline]
    pub fn find(&self, iova: u64) -> Option<&Region> {
        let mut node = &*self.root;
        loop {
            match node {
                Node::Inner(children) => node = &children[child_of(children, iova)].1,
                Node::Leaf(regions) => {
                    let index = regions.partition_point(|region| region.iova <= iova).checked_sub(1)?;
                    return regions.get(index).filter(|region| region.contains(iova));
                }
            }
        }
    }

    /// The regions with any byte in `first..=last`, in order.
    pub fn touching(&self, first: u64, last: u64) -> impl Iterator<Item = &Region> {
        let begin = self.find(first).or_else(|| next_from(&self.root, first));
        std::iter::successors(begin, |region| next_from(&self.root, region.last().checked_add(1)?))
            .take_while(move |region| region.iova <= last)
    }

    /// All regions in order.
    pub fn iter(&self) -> impl Iterator<Item = &Region> {
        self.touching(0, u64::MAX)
    }

    /// The region with the highest addresses.
    pub fn last(&self) -> Option<&Region> {
        self.root.last()
    }

    /// Adds a region that touches no other.
    pub fn insert(&mut self, region: Region) {
        let left = self.root.first().map_or(region.iova, |first| first.min(region.iova));
        if let Some(right) = insert(&mut self.root, region) {
            self.root = Arc::new(Node::Inner(vec![(left, Arc::clone(&self.root)), right]));
        }
        self.len += 1;
    }

    /// Removes the region that begins at `iova`.
    pub fn remove(&mut self, iova: u64) {
        if remove(&mut self.root, iova) {
            self.len -= 1;
        }
        while let Node::Inner(children) = &*self.root
            && children.len() <= 1
        {
            self.root = match children.first() {
                Some((_, only)) => Arc::clone(only),
                None => Arc::new(Node::Leaf(Vec::new())),
            };
        }
    }
}

/// The child that holds `iova` if any does.
fn child_of(children: &[(u64, Arc<Node>)], iova: u64) -> usize {
    children.partition_point(|(first, _)| *first <= iova).saturating_sub(1)
}

/// The first region that begins at `iova` or later.
fn next_from(node: &Node, iova: u64) -> Option<&Region> {
    match node {
        Node::Leaf(regions) => regions.get(regions.partition_point(|region| region.iova < iova)),
        // The child itself may hold only smaller ones; its right neighbour then begins with the answer.
        Node::Inner(children) => {
            children[child_of(children, iova)..].iter().take(2).find_map(|(_, child)| next_from(child, iova))
        }
    }
}

fn insert(node: &mut Arc<Node>, region: Region) -> Option<(u64, Arc<Node>)> {
    match Arc::make_mut(node) {
        Node::Leaf(regions) => {
            let at = regions.partition_point(|other| other.iova < region.iova);
            regions.insert(at, region);
            let right = split(regions, at)?;
            Some((right[0].iova, Arc::new(Node::Leaf(right))))
        }
        Node::Inner(children) => {
            let at = child_of(children, region.iova);
            let (first, child) = &mut children[at];
            *first = region.iova.min(*first);
            let sibling = insert(child, region)?;
            children.insert(at + 1, sibling);
            let right = split(children, at + 1)?;
            Some((right[0].0, Arc::new(Node::Inner(right))))
        }
    }
}

/// Cuts an overfull node. One that overflowed at its end stays full: mappings mostly come in ascending order.
fn split<T>(items: &mut Vec<T>, inserted: usize) -> Option<Vec<T>> {
    if items.len() <= CAPACITY {
        return None;
    }
    let at = if inserted == items.len() - 1 { inserted } else { items.len() / 2 };
    Some(items.split_off(at))
}

/// Removes the region at `iova`; nodes that become empty go, others are not merged.
fn remove(node: &mut Arc<Node>, iova: u64) -> bool {
    match Arc::make_mut(node) {
        Node::Leaf(regions) => match regions.binary_search_by_key(&iova, |region| region.iova) {
            Ok(at) => {
                regions.remove(at);
                true
            }
            Err(_) => false,
        },
        Node::Inner(children) => {
            let at = child_of(children, iova);
            let removed = remove(&mut children[at].1, iova);
            match children[at].1.first() {
                Some(first) => children[at].0 = first,
                None => drop(children.remove(at)),
            }
            removed
        }
    }
}

impl Node {
    /// Its last region; none when it is empty. Only the root ever is.
    fn last(&self) -> Option<&Region> {
        match self {
            Self::Leaf(regions) => regions.last(),
            Self::Inner(children) => children.last()?.1.last(),
        }
    }

    /// The address of its first region; none when it is empty.
    fn first(&self) -> Option<u64> {
        match self {
            Self::Leaf(regions) => regions.first().map(|region| region.iova),
            Self::Inner(children) => children.first().map(|(first, _)| *first),
        }
    }
}
