//! Finding addresses for a mapping whose place its maker leaves to us.

use crate::Mappings;
use crate::iommu::PAGE;
use virtio_mdev_api::dma::Limits;

/// The lowest address from `from` with room for `length` bytes, a multiple of `align`, in one of the ranges `allowed` (given
/// in order) or, where there are none, anywhere. As in the kernel, neither the first nor the last page is chosen.
pub(super) fn find(
    mappings: &Mappings,
    allowed: &[(u64, u64)],
    limits: &Limits,
    from: u64,
    length: u64,
    align: u64,
) -> Option<u64> {
    let anywhere = [(0, u64::MAX)];
    let allowed = if allowed.is_empty() { &anywhere } else { allowed };
    let first = PAGE.max(limits.first).max(from);
    let last = (u64::MAX - PAGE).min(limits.last);
    allowed.iter().find_map(|&(begin, end)| find_in(mappings, begin.max(first), end.min(last), length, align))
}

fn find_in(mappings: &Mappings, first: u64, last: u64, length: u64, align: u64) -> Option<u64> {
    let mut at = first.checked_next_multiple_of(align)?;
    loop {
        let end = at.checked_add(length.checked_sub(1)?).filter(|&end| end <= last)?;
        let Some((_, used)) = mappings.touching(at, end).next() else { return Some(at) };
        at = used.checked_add(1)?.checked_next_multiple_of(align)?;
    }
}

/// What the address of a mapping of `length` bytes is best a multiple of: as its memory at `of` is, but never more than it is
/// long. `None` when it is longer than can be placed.
pub(super) fn alignment(of: u64, length: u64) -> Option<u64> {
    let whole = length.checked_next_power_of_two().filter(|_| length < u64::MAX / 2)?;
    Some(if of == 0 { whole } else { whole.min(1 << of.trailing_zeros()) })
}
