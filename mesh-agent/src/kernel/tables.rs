//! The pinned maps as the decision's tables: what a program would be told now, asked from user space.

use super::maps::Maps;
use aya::maps::lpm_trie::Key;
use mesh_common::abi::{Addr, Dest, EgressKey, EgressNet, Service};
use mesh_common::decide::l4::{Tables, stricter};

impl Tables for Maps {
    fn service(&self, dest: &Dest) -> Option<Service> {
        self.services.get(dest, 0).ok()
    }

    fn is_protected(&self, dest: &Dest) -> bool {
        self.protected.get(dest, 0).is_ok()
    }

    fn is_workload(&self, addr: &Addr) -> bool {
        self.workloads.get(addr, 0).is_ok()
    }

    fn is_endpoint(&self, dest: &Dest) -> bool {
        Self::is_endpoint(self, dest)
    }

    fn egress(&self, policy: u32, dest: &Dest) -> Option<u32> {
        stricter(
            policy,
            |policy| self.egress_exact.get(&EgressKey { policy, dest: *dest }, 0).ok(),
            |policy| self.egress_cidr.get(&Key::new(EgressNet::BITS, EgressNet::question(policy, dest)), 0).ok(),
        )
    }
}
