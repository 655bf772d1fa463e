//! Real sockets and socket files.

use std::fs;
use std::net::{Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;

use super::*;

fn port_of(host: &str, listener: &TcpListener) -> Exposure {
    let port = listener.local_addr().unwrap().port();
    ServicePort::new(host, port, std::iter::empty()).unwrap().look()
}

fn has_other_addresses() -> bool {
    own::addresses().is_ok_and(|own| !own.is_empty())
}

#[test]
fn a_service_on_loopback_is_closed_and_one_on_every_address_is_not() {
    let loopback = TcpListener::bind("127.0.0.1:0").unwrap();
    assert_eq!(port_of("localhost", &loopback), Exposure::closed());
    if let Ok(loopback) = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)) {
        assert_eq!(port_of("[::1]", &loopback), Exposure::closed());
    }
    if !has_other_addresses() {
        return;
    }
    for any in ["0.0.0.0:0", "[::]:0"] {
        let Ok(listener) = TcpListener::bind(any) else { continue };
        let found = port_of("127.0.0.1", &listener);
        let socket = listener.local_addr().unwrap().to_string();
        assert_eq!((found.state, &found.sockets[..]), (ExposureState::Exposed, &[socket][..]));
        let reached: SocketAddr = found.reached[0].parse().unwrap();
        assert!(!reached.ip().is_loopback());
        let text = found.message().unwrap();
        assert!(text.contains("around keygate") && text.contains(&found.reached[0]), "{text}");
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let gone = ServicePort::new("127.0.0.1", port, std::iter::empty()).unwrap().look();
        assert_eq!(gone, Exposure::closed(), "{any}");
    }
}

#[test]
fn an_address_of_this_machine_is_no_loopback() {
    let Some(own) = own::addresses().ok().and_then(|own| own.first().copied()) else { return };
    if own.scope != 0 {
        return;
    }
    let listener = TcpListener::bind((own.ip, 0)).unwrap();
    assert_eq!(port_of(&own.ip.to_string(), &listener).state, ExposureState::Exposed);
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn named(found: &Exposure) -> Vec<&str> {
    found.sockets.iter().map(|s| s.split(" (").next().unwrap()).collect()
}

/// A directory like those below `/run`. `None` if others cannot enter the system's temporary
/// directory.
fn open_dir() -> Option<tempfile::TempDir> {
    let dir = tempfile::tempdir().unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode();
    let is_open = dir.path().ancestors().skip(1).all(|above| mode(above) & 1 != 0);
    chmod(dir.path(), 0o755);
    is_open.then_some(dir)
}

#[test]
fn a_socket_file_is_open_where_others_may_write() {
    let Some(dir) = open_dir() else { return };
    let inner = dir.path().join("app");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("app.sock");
    let _service = UnixListener::bind(&path).unwrap();
    let (inner_text, path_text) = (inner.to_str().unwrap(), path.to_str().unwrap());
    // Directory, socket, what is wrong.
    for (directory, socket, wrong) in [
        (0o755, 0o755, &[][..]),
        (0o755, 0o660, &[]),
        (0o755, 0o666, &[path_text]),
        (0o755, 0o777, &[path_text]),
        // Nobody else can get there.
        (0o750, 0o777, &[]),
        // Others can replace the socket by their own.
        (0o777, 0o600, &[inner_text]),
        (0o1777, 0o600, &[]),
        (0o1777, 0o666, &[path_text]),
        (0o772, 0o600, &[]),
    ] {
        chmod(&path, socket);
        chmod(&inner, directory);
        let found = socket_file::look(&path);
        assert_eq!(named(&found), wrong, "{directory:o} {socket:o}");
        assert_eq!(found.gauge(), i8::from(!wrong.is_empty()));
    }
    // A directory further up.
    chmod(&inner, 0o755);
    chmod(&path, 0o600);
    chmod(dir.path(), 0o777);
    assert_eq!(named(&socket_file::look(&path)), [dir.path().to_str().unwrap()]);
    chmod(dir.path(), 0o755);
    // Through a symbolic link, in a separate directory.
    let links = dir.path().join("links");
    fs::create_dir(&links).unwrap();
    let link = links.join("app.sock");
    symlink(&path, &link).unwrap();
    assert_eq!(socket_file::look(&link), Exposure::closed());
    chmod(&links, 0o777);
    assert_eq!(named(&socket_file::look(&link)), [links.to_str().unwrap()]);
}

#[test]
fn a_socket_that_is_missing_can_be_made_by_others() {
    let Some(dir) = open_dir() else { return };
    let path = dir.path().join("app.sock");
    assert_eq!(socket_file::look(&path), Exposure::closed());
    assert_eq!(socket_file::look(&dir.path().join("none/app.sock")), Exposure::closed());
    chmod(dir.path(), 0o1777);
    assert_eq!(named(&socket_file::look(&path)), [dir.path().to_str().unwrap()]);
}

/// Every link of a chain is in a separate directory, and a directory on the way is a link too.
#[test]
fn a_chain_of_links_is_open_where_one_of_them_can_be_replaced() {
    let Some(dir) = open_dir() else { return };
    let [real, middle, links] = ["real", "middle", "links"].map(|name| {
        let path = dir.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    });
    let _service = UnixListener::bind(real.join("app.sock")).unwrap();
    chmod(&real.join("app.sock"), 0o660);
    // Through an absolute path, a relative one, and a directory that is itself a link.
    symlink(real.join("app.sock"), middle.join("to-socket")).unwrap();
    symlink("../middle/to-socket", links.join("relative")).unwrap();
    symlink("../middle", links.join("directory")).unwrap();
    for path in [links.join("relative"), links.join("directory/to-socket")] {
        assert_eq!(socket_file::look(&path), Exposure::closed(), "{path:?}");
        for open in [&real, &middle, &links] {
            chmod(open, 0o777);
            assert_eq!(named(&socket_file::look(&path)), [open.to_str().unwrap()], "{path:?}");
            chmod(open, 0o755);
        }
    }
    symlink("circle", links.join("circle")).unwrap();
    assert_eq!(socket_file::look(&links.join("circle")).state, ExposureState::Unknown);
}

/// Needs the right to change the owner of files. Elsewhere it tests nothing.
#[test]
fn a_directory_of_a_third_user_or_group_is_open() {
    let Some(dir) = open_dir() else { return };
    let (user, group) = (Some(54_321), Some(54_322));
    let inner = dir.path().join("app");
    fs::create_dir(&inner).unwrap();
    let path = inner.join("app.sock");
    let _service = UnixListener::bind(&path).unwrap();
    chmod(&path, 0o660);
    if chown(&inner, user, None).is_err() {
        return;
    }
    let look = || socket_file::look(&path);
    assert_eq!(look().sockets, [format!("{} (owner 54321)", inner.display())]);
    chmod(&inner, 0o1755);
    assert_eq!(look().state, ExposureState::Exposed, "whose own directory is sticky");
    // The service's own directory, and one that no stranger can get to.
    chown(&path, user, None).unwrap();
    assert_eq!(look(), Exposure::closed());
    chown(&path, Some(0), None).unwrap();
    chmod(dir.path(), 0o750);
    assert_eq!(look(), Exposure::closed());
    chmod(dir.path(), 0o755);
    chown(&inner, Some(0), group).unwrap();
    chmod(&inner, 0o755);
    assert_eq!(look(), Exposure::closed(), "who may not write");
    chmod(&inner, 0o775);
    assert_eq!(look().sockets, [format!("{} (mode 0775, group 54322)", inner.display())]);
    chmod(&inner, 0o1775);
    assert_eq!(look(), Exposure::closed(), "sticky: the socket is not theirs");
    // The socket itself.
    chown(&inner, None, Some(0)).unwrap();
    chown(&path, None, group).unwrap();
    assert_eq!(look().sockets, [format!("{} (mode 0660, group 54322)", path.display())]);
    chmod(&path, 0o640);
    assert_eq!(look(), Exposure::closed());
    // A group that only the service's user is in.
    chmod(&path, 0o660);
    chown(&path, group, group).unwrap();
    assert_eq!(look(), Exposure::closed());
}
