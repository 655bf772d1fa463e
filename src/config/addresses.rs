//! All addresses that keygate listens on: no address twice, none that belongs to the service, and
//! the settings for the file of a Unix socket.

use std::net::{IpAddr, SocketAddr};
use std::path::{Component, Path, PathBuf};

use super::fault::ConfigProblem;
use super::raw::ConfigPlace;
use super::section::ConfigSection;
use super::{AdminConfig, Bind, Families, Listener, SocketFile, UpstreamAddress, UpstreamConfig};

/// Size of a path in `sockaddr_un`, including the final zero (unix(7)).
const SOCKET_PATH: usize = 108;

/// One address to bind.
struct ClaimedAddress<'a> {
    bind: Bind,
    place: &'a ConfigPlace,
}

/// Refuses addresses that cannot be bound together. `[::]` leaves IPv4 to a `0.0.0.0` with the same
/// port, so that both can be.
pub(crate) fn settle(
    root: &ConfigSection<'_>,
    listeners: &mut [Listener],
    places: &[ConfigPlace],
    admin: &mut AdminConfig,
    admin_section: &ConfigSection<'_>,
) {
    let admin_place = admin_section.place_of("address");
    let public_place = admin_section.place_of("public_address");
    let mut all: Vec<ClaimedAddress<'_>> = listeners
        .iter()
        .zip(places)
        .map(|(listener, place)| ClaimedAddress { bind: listener.bind.clone(), place })
        .collect();
    all.push(ClaimedAddress { bind: Bind::Tcp(admin.bind), place: &admin_place });
    all.extend(admin.public.map(|at| ClaimedAddress { bind: Bind::Tcp(at), place: &public_place }));
    let everywhere = |port| {
        let is_it = |at: &SocketAddr| is_any_ipv4(at) && at.port() == port;
        let any = |t: &ClaimedAddress<'_>| matches!(&t.bind, Bind::Tcp(at) if is_it(at));
        port != 0 && all.iter().any(any)
    };
    let families = |bind: &SocketAddr| match is_any_ipv6(bind) && everywhere(bind.port()) {
        true => Families::OnlyIpv6,
        false => Families::Both,
    };
    for listener in listeners.iter_mut() {
        if let Bind::Tcp(bind) = &listener.bind {
            listener.families = families(bind);
        }
    }
    admin.families = families(&admin.bind);
    if let Some(public) = &admin.public {
        admin.public_families = families(public);
    }
    for (index, one) in all.iter().enumerate() {
        let earlier = all.get(..index).unwrap_or_default();
        let Some(other) = earlier.iter().find(|other| clash(&other.bind, &one.bind)) else {
            continue;
        };
        // The default of `admin.address` has no line. Then the fault is reported at the listener.
        let (at, with) = match one.place.path.starts_with("admin") && !root.has("admin") {
            true => (other.place, "the default of admin.address".to_owned()),
            false => {
                let line = root.reader().line(other.place);
                (one.place, format!("{} (line {line})", other.place.path))
            }
        };
        let [a, b] = [&other.bind, &one.bind].map(shown);
        let said = if a == b {
            format!("{a} is also {with}")
        } else {
            format!("{a} and {b} are one: {with}")
        };
        let problem = ConfigProblem::new(format!("cannot be bound beside another address: {said}"));
        root.reader().fault(at, problem.hint("give each its own port, or its own address"));
    }
}

/// A service at one of our addresses would be keygate itself: every request would return to it.
pub(crate) fn no_loop(
    section: &ConfigSection<'_>,
    upstream: Option<&UpstreamConfig>,
    listeners: &[Listener],
    admin: &AdminConfig,
) {
    let Some(upstream) = upstream else { return };
    let service = match &upstream.address {
        UpstreamAddress::Unix(path) => Bind::Unix(path.clone()),
        UpstreamAddress::Tcp { host, port } => {
            let ip = match &**host {
                "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
                host => host.parse(),
            };
            match ip {
                Ok(ip) => Bind::Tcp(SocketAddr::new(ip, *port)),
                Err(_) => return,
            }
        }
    };
    let here = match &service {
        Bind::Tcp(at) => at.ip().to_canonical().is_loopback() || at.ip().is_unspecified(),
        Bind::Unix(_) => true,
    };
    let admin: Vec<Bind> =
        [Some(admin.bind), admin.public].into_iter().flatten().map(Bind::Tcp).collect();
    let ours = listeners.iter().map(|l| &l.bind).chain(&admin);
    let same = |ours: &Bind| *ours == service || (here && clash(ours, &service));
    if let Some(ours) = ours.into_iter().find(|ours| same(ours)) {
        let problem =
            ConfigProblem::new(format!("is where keygate itself listens ({})", shown(ours)));
        section.fault("url", problem.hint("let the service listen on another port"));
    }
}

/// An absolute path that fits into a socket address.
pub(crate) fn socket_path(path: &str) -> Result<PathBuf, ConfigProblem> {
    if !path.starts_with('/') {
        return Err(ConfigProblem::new("a Unix socket needs an absolute path"));
    }
    if path.len() >= SOCKET_PATH || path.contains('\0') {
        let most = SOCKET_PATH - 1;
        return Err(ConfigProblem::new(format!(
            "a Unix socket's path is at most {most} bytes long"
        ))
        .hint("/run/keygate/http.sock is a usual place"));
    }
    Ok(PathBuf::from(path))
}

/// `socket_mode`, `socket_owner` and `socket_group`. `bind`: `None` if the address itself is at
/// fault.
pub(crate) fn socket_file(section: &ConfigSection<'_>, bind: Option<&Bind>) -> SocketFile {
    let mode = section.parse("socket_mode", |text| {
        let digits = text.strip_prefix("0o").unwrap_or(text);
        match u32::from_str_radix(digits, 8) {
            Ok(mode) if mode <= 0o777 && mode & 0o600 == 0o600 => Ok(mode),
            Ok(mode) if mode <= 0o777 => {
                Err(ConfigProblem::new("must let the owner read and write (0600 at least)"))
            }
            _ => Err(ConfigProblem::new("is not a mode").hint("modes look like \"0660\"")),
        }
    });
    let owner = section.parse("socket_owner", |text| id(section, text, "/etc/passwd"));
    let group = section.parse("socket_group", |text| id(section, text, "/etc/group"));
    if let Some(Bind::Tcp(_)) = bind {
        for key in ["socket_mode", "socket_owner", "socket_group"] {
            if section.has(key) {
                let problem = ConfigProblem::new("is for a Unix socket");
                section.fault(key, problem.hint("set address = \"unix:/run/keygate/http.sock\""));
            }
        }
    }
    SocketFile { mode, owner, group }
}

/// A numeric id, or that of a name in `file` (passwd(5), group(5)). Other name services are not
/// asked, because a static binary has none.
fn id(section: &ConfigSection<'_>, text: &str, file: &'static str) -> Result<u32, ConfigProblem> {
    if let Ok(id) = text.parse() {
        return Ok(id);
    }
    let known = section.reader().read(Path::new(file)).unwrap_or_default();
    let known = String::from_utf8_lossy(&known).into_owned();
    let id = known.lines().find_map(|line| {
        let mut cells = line.split(':');
        (cells.next() == Some(text)).then(|| cells.nth(1)?.parse().ok()).flatten()
    });
    id.ok_or_else(|| {
        ConfigProblem::new(format!("is not in {file}")).hint("a number is taken as it is")
    })
}

/// Whether the second cannot be bound once the first is. Port 0 is a different port each time.
fn clash(a: &Bind, b: &Bind) -> bool {
    match (a, b) {
        (Bind::Unix(a), Bind::Unix(b)) => plain(a) == plain(b),
        (Bind::Tcp(a), Bind::Tcp(b)) => {
            let (x, y) = (a.ip().to_canonical(), b.ip().to_canonical());
            let one_family = x.is_ipv4() == y.is_ipv4();
            let whole = x.is_unspecified() || y.is_unspecified();
            // `[::]` also accepts IPv4, except where `0.0.0.0` is configured as well.
            let both = (is_any_ipv6(a) && !is_any_ipv4(b)) || (is_any_ipv6(b) && !is_any_ipv4(a));
            a.port() == b.port() && a.port() != 0 && (x == y || (one_family && whole) || both)
        }
        _ => false,
    }
}

fn is_any_ipv4(address: &SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    ip.is_ipv4() && ip.is_unspecified()
}

fn is_any_ipv6(address: &SocketAddr) -> bool {
    address.is_ipv6() && address.ip().is_unspecified()
}

/// Without `.` and empty parts, which have no effect.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            part => plain.push(part),
        }
    }
    plain
}

fn shown(bind: &Bind) -> String {
    match bind {
        Bind::Tcp(address) => address.to_string(),
        Bind::Unix(path) => format!("unix:{}", path.display()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_cannot_stand_beside_each_other() {
        let bind = |text: &str| match text.strip_prefix("unix:") {
            Some(path) => Bind::Unix(path.into()),
            None => Bind::Tcp(text.parse().unwrap()),
        };
        for (a, b, want) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:81", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("0.0.0.0:0", "0.0.0.0:0", false),
            ("0.0.0.0:80", "[::]:80", false),
            ("[::]:80", "127.0.0.1:80", true),
            ("[::]:80", "[::1]:80", true),
            ("[::1]:80", "127.0.0.1:80", false),
            ("0.0.0.0:80", "[::1]:80", false),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("unix:/run/a.sock", "unix:/run/a.sock", true),
            ("unix:/run/a.sock", "unix:/run/./x/..//a.sock", true),
            ("unix:/run/a.sock", "unix:/run/b.sock", false),
            ("unix:/run/a.sock", "127.0.0.1:80", false),
        ] {
            assert_eq!(clash(&bind(a), &bind(b)), want, "{a} {b}");
            assert_eq!(clash(&bind(b), &bind(a)), want, "{b} {a}");
        }
    }
}
