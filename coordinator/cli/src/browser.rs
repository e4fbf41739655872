//! Browser of a desktop, in which a page is opened.

/// Opens an address in the browser of a desktop; elsewhere the line that names it has to do.
pub(super) fn open(address: &str) {
    let is_desktop =
        ["DISPLAY", "WAYLAND_DISPLAY"].iter().any(|name| std::env::var_os(name).is_some());
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    if cfg!(target_os = "macos") || is_desktop {
        let mut command = std::process::Command::new(program);
        // Ctrl-C ends the command, and no browser.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let null = std::process::Stdio::null;
        let _ = command.arg(address).stdin(null()).stdout(null()).stderr(null()).spawn();
    }
}
