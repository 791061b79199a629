//! Every way to refuse or to let a flow pass, named once.
//!
//! One name is the counter's index in the kernel, the code in the ring buffer, the metric's label and the log field, so a refusal
//! can be followed from an application's errno to the line that decided it.

macro_rules! reasons {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $code:literal => $label:literal,)+ }) => {
        $(#[$meta])*
        #[repr(u8)]
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum $name { $($(#[$doc])* $variant = $code,)+ }

        impl $name {
            /// All of them, in the order of their codes.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The name in metrics, logs and `explain`.
            #[must_use]
            pub const fn label(self) -> &'static str {
                match self { $(Self::$variant => $label,)+ }
            }

            /// The number that the kernel reports.
            #[must_use]
            pub const fn code(self) -> u8 {
                self as u8
            }

            /// Reads a number that the kernel reported; `None` if this build does not know it.
            #[must_use]
            pub const fn from_code(code: u8) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

reasons! {
    /// Why a flow was refused. Codes start at 1: zero is "no reason".
    Reason {
        /// The service has no backend that may take a connection.
        NoBackend = 1 => "no_backend",
        /// The address is in a VIP range, but no service owns this address and port.
        UnknownVip = 2 => "unknown_vip",
        /// A workload dialled one of the mesh's own listeners.
        MeshListener = 3 => "mesh_listener",
        /// A workload dialled the control plane or an admin port.
        ControlPlane = 4 => "control_plane",
        /// The destination is outside the mesh and no ServiceEntry allows it.
        EgressDenied = 5 => "egress_denied",
        /// The connection belongs to the proxy, and the pod's listener is gone.
        ProxyGone = 6 => "proxy_gone",
        /// A map had no room for the state that the hand-over needs.
        MapFull = 7 => "map_full",
        /// A packet left a pod around the hooks and its destination is not allowed.
        Bypass = 8 => "bypass",
        /// The kernel half met a state that its maps should never hold.
        Internal = 9 => "internal",
        /// DNS to a server with an IPv6 address: the mesh's DNS is asked over IPv4 only, and an unseen question may not leave the pod.
        Ipv6Dns = 10 => "ipv6_dns",
        /// A packet left a pod with a source address that is not the pod's.
        Spoofed = 11 => "spoofed",
    }
}

impl Reason {
    /// The errno that the application gets from connect() or sendto() (positive; the same numbers on every Linux architecture but
    /// MIPS, Alpha, PA-RISC and SPARC, which Mesos does not run on).
    ///
    /// `ECONNREFUSED` where something should answer and does not or may not; `EHOSTUNREACH` where the destination does not exist for
    /// this workload; `EPERM`, what the kernel gives by itself, for our own faults.
    #[must_use]
    #[inline(always)]
    pub const fn errno(self) -> i32 {
        match self {
            Self::NoBackend | Self::MeshListener | Self::ControlPlane | Self::ProxyGone | Self::Ipv6Dns => 111,
            Self::UnknownVip | Self::EgressDenied => 113,
            Self::MapFull | Self::Bypass | Self::Spoofed | Self::Internal => 1,
        }
    }
}

reasons! {
    /// Why a flow was left alone.
    Passed {
        /// The destination is loopback.
        Loopback = 32 => "loopback",
        /// The destination is the pod's own address.
        OwnAddress = 33 => "own_address",
        /// The executor talks to the Mesos agent of its own node.
        MesosAgent = 34 => "mesos_agent",
        /// The process belongs to no enrolled workload.
        NotEnrolled = 35 => "not_enrolled",
        /// The service's port is in mode `direct`.
        Direct = 36 => "direct",
        /// The destination is the address of a known workload.
        Workload = 37 => "workload",
        /// Outside the mesh, and allowed.
        Egress = 38 => "egress",
        /// The proxy's own connection to a service's backend, on a brokered socket.
        Brokered = 39 => "brokered",
        /// Outside the mesh, not allowed, and let pass all the same: outbound policy AUDIT.
        Audited = 40 => "audited",
    }
}

reasons! {
    /// What was done with a flow that was neither refused nor left alone.
    Steered {
        /// Handed to the proxy.
        Proxy = 64 => "proxy",
        /// Rewritten to a backend (kernel mode).
        Backend = 65 => "backend",
        /// Handed to the mesh's DNS.
        Dns = 66 => "dns",
    }
}

/// Slots of the kernel's counter array: every code above is an index.
pub const COUNTERS: u32 = 96;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_labels_are_unique_and_fit_the_counter_array() {
        let mut codes = std::collections::BTreeSet::new();
        let mut labels = std::collections::BTreeSet::new();
        let all = Reason::ALL.iter().map(|r| (r.code(), r.label()));
        let all = all.chain(Passed::ALL.iter().map(|r| (r.code(), r.label())));
        for (code, label) in all.chain(Steered::ALL.iter().map(|r| (r.code(), r.label()))) {
            assert!(u32::from(code) < COUNTERS, "{label}");
            assert!(codes.insert(code), "{label}");
            assert!(labels.insert(label), "{label}");
        }
        assert!(!codes.contains(&0), "zero means: no reason");
    }

    #[test]
    fn codes_survive_the_trip_through_the_kernel() {
        for reason in Reason::ALL {
            assert_eq!(Reason::from_code(reason.code()), Some(*reason));
        }
        assert_eq!(Reason::from_code(0), None);
        assert_eq!(Reason::from_code(255), None);
    }
}
