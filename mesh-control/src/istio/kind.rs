//! The Istio kinds as the API names them: one row per kind, so that discovery, paths, tables and refusals cannot disagree.

/// The API groups, each with the versions served, the preferred one first. Their schemas are identical, so an object is stored once.
pub(crate) const GROUPS: [(&str, &[&str]); 2] =
    [("networking.istio.io", &["v1", "v1beta1", "v1alpha3"]), ("config.istio.io", &["v1alpha2"])];

/// A kind of configuration.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Kind {
    VirtualService,
    DestinationRule,
    Gateway,
    ServiceEntry,
    /// What Istio had before 0.8 instead of DestinationRule.
    DestinationPolicy,
}

impl Kind {
    /// All of them, in the order of discovery.
    pub(crate) const ALL: [Self; 5] =
        [Self::DestinationRule, Self::Gateway, Self::ServiceEntry, Self::VirtualService, Self::DestinationPolicy];

    /// The API group and its versions.
    const fn served(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::VirtualService | Self::DestinationRule | Self::Gateway | Self::ServiceEntry => GROUPS[0],
            Self::DestinationPolicy => GROUPS[1],
        }
    }

    /// `networking.istio.io`.
    #[must_use]
    pub(crate) const fn group(self) -> &'static str {
        self.served().0
    }

    /// The version in which objects are stored.
    #[must_use]
    pub(crate) const fn version(self) -> &'static str {
        self.served().1[0]
    }

    /// `VirtualService`.
    #[must_use]
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::ServiceEntry => "ServiceEntry",
            Self::DestinationPolicy => "DestinationPolicy",
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
            Self::DestinationPolicy => "destinationpolicies",
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
            Self::DestinationPolicy => "destinationpolicy",
        }
    }

    /// `vs`.
    #[must_use]
    pub(crate) const fn short(self) -> Option<&'static str> {
        match self {
            Self::VirtualService => Some("vs"),
            Self::DestinationRule => Some("dr"),
            Self::Gateway => Some("gw"),
            Self::ServiceEntry => Some("se"),
            Self::DestinationPolicy => None,
        }
    }

    /// The names for several kinds at once, as `kubectl get istio-io`.
    #[must_use]
    pub(crate) fn categories(self) -> [String; 2] {
        let own = self.group().split('.').next().unwrap_or_default();
        ["istio-io".to_owned(), format!("{own}-istio-io")]
    }

    /// What to write instead of a kind that Istio has given up.
    #[must_use]
    pub(crate) const fn successor(self) -> Option<&'static str> {
        match self {
            Self::DestinationPolicy => Some("networking.istio.io/v1 DestinationRule"),
            Self::VirtualService | Self::DestinationRule | Self::Gateway | Self::ServiceEntry => None,
        }
    }
}
