//! VFIO groups and containers that turn DMA map calls into an address space.
