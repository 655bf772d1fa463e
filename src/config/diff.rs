//! Which changes of the configuration need a restart.

use super::{Config, TableSource};

/// Declares, per key, how to read its effective value.
macro_rules! restart {
    ($( $key:literal => $($field:ident).+, )*) => {
        /// Keys whose change has no effect before a restart, and whether two configurations differ
        /// in them. `listen` includes everything below it.
        const RESTART: &[(&str, fn(&Config, &Config) -> bool)] = &[
            $( ($key, |old, new| old.$($field).+ != new.$($field).+), )*
        ];
    };
}

restart! {
    "admin.address" => admin.bind,
    "admin.hosts" => admin.hosts,
    "admin.probes" => admin.probes,
    "admin.public_address" => admin.public,
    "admin.token_file" => admin.token_file,
    "drain.deadline" => drain.deadline,
    "drain.delay" => drain.delay,
    "http2.header_list_bytes" => http2.header_list_bytes,
    "http2.max_streams" => http2.max_streams,
    "http2.prior_knowledge" => http2.prior_knowledge,
    "limits.body_rate" => caps.body_rate,
    "limits.connections" => caps.connections,
    "limits.connections_per_address" => caps.connections_per_address,
    "limits.head_bytes" => caps.head_bytes,
    "limits.headers" => caps.headers,
    "limits.memory" => caps.memory,
    "limits.uri_bytes" => caps.uri_bytes,
    "listen" => listeners,
    "log.access" => log.access,
    "log.access_file" => log.access_file,
    "log.format" => log.format,
    "log.level" => log.level,
    "quotas.file" => quota_file,
    "shared" => shared,
    "table.cache_dir" => table.cache_dir,
    "table.http" => table.url,
    "table.patch" => table.patch,
    "table.state_file" => table.state_file,
    "table.wait_for_table" => table.wait_for_table,
    "timeouts.body" => timeouts.body,
    "timeouts.connect" => timeouts.connect,
    "timeouts.first_byte" => timeouts.first_byte,
    "timeouts.half_closed" => timeouts.half_closed,
    "timeouts.handshake" => timeouts.handshake,
    "timeouts.header" => timeouts.header,
    "timeouts.idle" => timeouts.idle,
    "timeouts.queue" => timeouts.queue,
    "timeouts.response_idle" => timeouts.response_idle,
    "timeouts.total" => timeouts.total,
    "timeouts.upstream_idle" => timeouts.upstream_idle,
    "timeouts.write" => timeouts.write,
    "upstream.exposure_check" => upstream.exposure_check,
    "upstream.health_interval" => upstream.health_interval,
    "upstream.health_path" => upstream.health_path,
    "upstream.host" => upstream.host,
    "upstream.max_connections" => upstream.max_connections,
    "upstream.max_queue" => upstream.max_queue,
    "upstream.preserve_header_case" => upstream.preserve_case,
    "upstream.protocol" => upstream.protocol,
    "upstream.reuse" => upstream.reuse,
    "upstream.rewrite_location" => upstream.rewrite_location,
    "upstream.send_proxy_protocol" => upstream.send_proxy,
    "upstream.tls" => upstream.tls,
    "upstream.url" => upstream.address,
    "usage.enabled" => usage.enabled,
    "usage.file" => usage.file,
    "usage.instance" => usage.instance,
    "workers.count" => workers.count,
    "workers.pin" => workers.pin,
}

/// The keys that differ and need a restart, sorted. Everything else takes effect immediately:
/// routes, credentials, identity, refusals, the trust in signers and the rules for new tables.
pub fn needs_restart(old: &Config, new: &Config) -> Vec<&'static str> {
    let changed = RESTART.iter().filter(|(_, differ)| differ(old, new));
    let mut keys: Vec<_> = changed.map(|(key, _)| *key).collect();
    if old.table.source != new.table.source {
        keys.push(match new.table.source {
            TableSource::Path(_) => "table.path",
            TableSource::Url(_) => "table.url",
        });
    }
    if old.upstreams != new.upstreams {
        keys.push("upstreams");
    }
    keys.sort_unstable();
    keys
}

/// Whether a change of `key` (`upstream.tls.ca`, without positions) needs a restart.
#[cfg(test)]
pub(super) fn is_restart_key(key: &str) -> bool {
    let under = |known: &str| {
        key == known || key.strip_prefix(known).is_some_and(|rest| rest.starts_with('.'))
    };
    matches!(key, "table.path" | "table.url") || RESTART.iter().any(|(known, _)| under(known))
}
