//! The Istio kinds as the API names them: one row per kind, so that discovery, paths, tables and refusals cannot disagree.

/// The API group of all of them.
pub(crate) const GROUP: &str = "networking.istio.io";

/// The versions served, the preferred one first. Their schemas are identical, so an object is stored once.
pub(crate) const VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];

/// A kind of configuration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
}

impl Kind {
    /// All of them, in the order of discovery.
    pub(crate) const ALL: [Self; 4] = [Self::DestinationRule, Self::Gateway, Self::ServiceEntry, Self::VirtualService];

    /// `VirtualService`.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
        }
    }

    /// `virtualservices`, the resource in paths.
    #[must_use]
    pub(crate) const fn plural(self) -> &'static str {
        match self {
            Self::VirtualService => "virtualservices",
            Self::DestinationRule => "destinationrules",
            Self::Gateway => "gateways",
            Self::ServiceEntry => "serviceentries",
        }
    }

    /// `virtualservice`.
    #[must_use]
    pub(crate) const fn singular(self) -> &'static str {
        match self {
            Self::VirtualService => "virtualservice",
            Self::DestinationRule => "destinationrule",
            Self::Gateway => "gateway",
            Self::ServiceEntry => "serviceentry",
        }
    }

    /// `vs`.
    #[must_use]
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::VirtualService => "vs",
            Self::DestinationRule => "dr",
            Self::Gateway => "gw",
            Self::ServiceEntry => "se",
        }
    }

    /// Why objects of this kind are refused; `None` if the mesh enforces them.
    #[must_use]
    pub(crate) const fn refusal(self) -> Option<&'static str> {
        match self {
            Self::VirtualService | Self::DestinationRule | Self::ServiceEntry => None,
            Self::Gateway => {
                Some("Gateway is not enforced by this version; it is refused so that nothing is stored without effect")
            }
        }
    }
}
