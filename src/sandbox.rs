//! wip
pub mod cgroup;
pub mod seccomp;
mod base; mod init; mod packets; mod runtime_files; pub mod shim; mod sys; pub mod wire;
pub mod channel; mod family; mod forker; mod mounter; mod network; mod reaper; mod uids;
pub mod launcher; pub mod logs;
