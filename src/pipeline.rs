//! One build, from request to image.
