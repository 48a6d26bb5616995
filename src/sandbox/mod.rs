//! User namespaces, mounts and the process of a RUN step; the only home of `unsafe`.
