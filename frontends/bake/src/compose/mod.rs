//! stub
use std::sync::Arc;
use rbuild_llb::{Diagnostic, SourceFile};
use crate::BakeOptions;
use crate::select::Config;
pub(crate) fn looks_like_one(_f: &Arc<SourceFile>) -> bool { false }
pub(crate) fn read(_f: &[Arc<SourceFile>], _o: &BakeOptions, _c: &mut Config) -> Result<(), Vec<Diagnostic>> { Ok(()) }
