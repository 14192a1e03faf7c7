//! RFC 6455, server side, without I/O: bytes in, events out.
