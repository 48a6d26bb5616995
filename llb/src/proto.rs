//! BuildKit's protobuf form of a graph, in and out.
