//! Tables that a request looks into. Never for keys that strangers choose: those belong in std's own.

/// A table with a quick hash.
pub type Table<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
