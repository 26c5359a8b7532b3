//! Which IP addresses the hub may dial: every public one, and of the others those that an operator lists. Pure.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A non-public range that an endpoint may reach nevertheless, written `CIDR:port`; port `*` is any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Private {
    net: IpNet,
    port: Option<u16>,
}

impl Private {
    /// Reads `10.1.0.0/16:8443`, `127.0.0.1/32:*` or `fd00:1::/64:443`. The error names the text and says what to write.
    pub(crate) fn parse(text: &str) -> Result<Private, String> {
        let expected = || format!("`{text}` in `allow_private` is not CIDR:port: write for instance `10.1.0.0/16:443`");
        let (net, port) = text.rsplit_once(':').ok_or_else(expected)?;
        let net: IpNet = net.parse().map_err(|_| expected())?;
        let port = match port {
            "*" => None,
            // `parse` alone would take `+443`.
            port if port.starts_with(|c: char| c.is_ascii_digit()) => {
                Some(port.parse().ok().filter(|port| *port != 0).ok_or_else(expected)?)
            }
            _ => return Err(expected()),
        };
        // `10.0.0.5/8` grants sixteen million addresses to somebody who most likely meant one.
        if net.trunc() != net {
            return Err(format!(
                "`{text}` in `allow_private` has bits beyond its prefix: write `{}` for the whole range or `{}/{}` for the one address",
                net.trunc(),
                net.addr(),
                net.max_prefix_len(),
            ));
        }
        if let IpAddr::V6(addr) = net.addr()
            && addr.to_ipv4_mapped().is_some()
        {
            return Err(format!("`{text}` in `allow_private` is an IPv4 range in IPv6 form: write it as IPv4"));
        }
        Ok(Private { net, port })
    }
}

/// Whether `port` of `address` may be dialled. An IPv4-mapped address counts as the IPv4 address that the kernel would
/// dial.
pub(crate) fn admits(private: &[Private], address: IpAddr, port: u16) -> bool {
    is_public(address.to_canonical()) || lists(private, address, port)
}

/// Whether `port` of `address` is listed, be it public or not.
pub(crate) fn lists(private: &[Private], address: IpAddr, port: u16) -> bool {
    let address = address.to_canonical();
    private.iter().any(|grant| grant.port.is_none_or(|granted| granted == port) && grant.net.contains(&address))
}

fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => !NOT_PUBLIC_V4.iter().any(|net| net.contains(&address)),
        IpAddr::V6(address) => GLOBAL_V6.contains(&address) && !NOT_PUBLIC_V6.iter().any(|net| net.contains(&address)),
    }
}

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0), prefix)
}

/// The IANA IPv4 Special-Purpose Address Registry (RFC 6890) without its globally reachable entries, plus multicast
/// and what clouds answer on.
const NOT_PUBLIC_V4: [Ipv4Net; 16] = [
    v4(0, 0, 0, 0, 8),        // this network, RFC 791; Linux dials 0.0.0.0 as loopback
    v4(10, 0, 0, 0, 8),       // private, RFC 1918
    v4(100, 64, 0, 0, 10),    // behind carrier NAT, RFC 6598; Alibaba's metadata service
    v4(127, 0, 0, 0, 8),      // loopback, RFC 1122
    v4(168, 63, 129, 16, 32), // Azure's host agent, inside every Azure machine
    v4(169, 254, 0, 0, 16),   // link-local, RFC 3927; the metadata services of AWS, Google, Azure, Oracle
    v4(172, 16, 0, 0, 12),    // private, RFC 1918
    v4(192, 0, 0, 0, 24),     // protocol assignments, RFC 6890
    v4(192, 0, 2, 0, 24),     // documentation, RFC 5737
    v4(192, 88, 99, 0, 24),   // 6to4 relays, RFC 7526
    v4(192, 168, 0, 0, 16),   // private, RFC 1918
    v4(198, 18, 0, 0, 15),    // benchmarks, RFC 2544
    v4(198, 51, 100, 0, 24),  // documentation, RFC 5737
    v4(203, 0, 113, 0, 24),   // documentation, RFC 5737
    v4(224, 0, 0, 0, 4),      // multicast, RFC 5771
    v4(240, 0, 0, 0, 4),      // reserved, RFC 1112; broadcast
];

/// All that IANA has ever handed out for public use. Outside of it, and therefore refused: `::`, `::1`, IPv4-compatible
/// `::/96`, NAT64 `64:ff9b::/96` and `64:ff9b:1::/48`, discard `100::/64`, SRv6 `5f00::/16`, `fc00::/7`, `fe80::/10`,
/// `fec0::/10`, `ff00::/8`.
const GLOBAL_V6: Ipv6Net = v6(0x2000, 0, 3);

/// The IANA IPv6 Special-Purpose Address Registry within `2000::/3`.
const NOT_PUBLIC_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 23),     // protocol assignments, RFC 2928: Teredo, ORCHID, benchmarks
    v6(0x2001, 0xdb8, 32), // documentation, RFC 3849
    v6(0x2002, 0, 16),     // 6to4, RFC 7526: deprecated, and 2002:7f00:1:: leads to 127.0.0.1
    v6(0x3fff, 0, 20),     // documentation, RFC 9637
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grants_that_are_not_what_they_seem_are_refused() {
        for text in [
            "",
            "10.0.0.0/8",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/8:65536",
            "10.0.0.0/33:443",
            "10.0.0.1:443",
            "host:443",
            "::1:443",
            "10.0.0.0/8:443 ",
            "10.0.0.0/8:+443",
        ] {
            assert!(Private::parse(text).is_err_and(|error| error.contains(&format!("`{text}`"))), "{text}");
        }
        let broad = Private::parse("10.0.0.5/8:443").unwrap_err();
        assert!(broad.contains("10.0.0.0/8") && broad.contains("10.0.0.5/32"), "{broad}");
        assert!(Private::parse("::ffff:127.0.0.1/128:443").unwrap_err().contains("IPv4"));
    }
}
