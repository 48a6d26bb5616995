//! The store.

pub mod builder;
pub mod frame;
pub mod merge;
pub mod tree;

pub use builder::NewNode;
pub use builder::TreeBuilder;
pub use frame::Compression;
pub use tree::DirNode;
pub use tree::Directory;
pub use tree::Entry;
pub use tree::FileNode;
pub use tree::Follow;
pub use tree::Found;
pub use tree::Meta;
pub use tree::Node;
pub use tree::Resolved;
pub use tree::Timestamp;
pub use tree::TreeError;
pub use tree::TreeRef;
pub use tree::Trees;
