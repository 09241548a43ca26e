//! A parent whose instances return every frame they are sent.
