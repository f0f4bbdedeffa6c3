//! The registry: functions come, change and go while calls are served.

mod broken;
mod folders;
mod http;
mod reload;
mod settings;
mod shortage;
mod stores;
mod strangers;
