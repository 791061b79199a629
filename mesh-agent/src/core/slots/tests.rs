use super::*;
use mesh_common::abi::Addr;
use proptest::prelude::*;

fn to(n: u16) -> Dest {
    let [high, low] = n.to_be_bytes();
    Dest { addr: Addr::v4([9, 0, high, low]), port: 8080, proto: 6, pad: 0 }
}

/// What comes out of uniform draws, as shares of all.
fn shares(slots: &[Slot]) -> BTreeMap<Dest, f64> {
    let mut shares: BTreeMap<Dest, f64> = BTreeMap::new();
    for slot in slots {
        let own = (f64::from(slot.share) + 1.0) / 2f64.powi(32);
        *shares.entry(slot.to).or_default() += own / slots.len() as f64;
        *shares.entry(slots[slot.alias as usize].to).or_default() += (1.0 - own) / slots.len() as f64;
    }
    shares
}

fn weights() -> impl Strategy<Value = BTreeMap<Dest, u32>> {
    let weight = prop_oneof![Just(1u32), 1u32..10, any::<u32>().prop_map(|w| w.max(1))];
    prop::collection::btree_map((0u16..40).prop_map(to), weight, 0..20)
}

fn now(slots: &[Slot]) -> Vec<Option<Dest>> {
    slots.iter().map(|slot| Some(slot.to)).collect()
}

proptest! {
    #[test]
    fn each_has_the_share_of_its_weight(weights in weights(), before in weights()) {
        let slots = arrange(choice::LEAST, &weights, &now(&arrange(choice::LEAST, &before, &[])));
        prop_assert_eq!(slots.len(), weights.len());
        let sum: f64 = weights.values().map(|w| f64::from(*w)).sum();
        let shares = shares(&slots);
        for (to, weight) in &weights {
            let wanted = f64::from(*weight) / sum;
            prop_assert!((shares[to] - wanted).abs() < 1e-6, "{} instead of {}", shares[to], wanted);
        }
    }

    #[test]
    fn one_that_goes_or_comes_moves_at_most_one_other(weights in weights(), which in 0u16..40) {
        let equal: BTreeMap<Dest, u32> = weights.keys().map(|to| (*to, 7)).collect();
        let before = arrange(choice::LEAST, &equal, &[]);
        let mut next = equal.clone();
        if next.remove(&to(which)).is_none() {
            next.insert(to(which), 7);
        }
        let after = arrange(choice::LEAST, &next, &now(&before));
        prop_assert!(after.iter().zip(&before).filter(|(a, b)| a != b).count() <= 1);
        prop_assert!(after.len().abs_diff(before.len()) == 1);
    }

    #[test]
    fn a_backend_is_there_once(weights in weights(), before in weights()) {
        let slots = arrange(choice::RANDOM, &weights, &now(&arrange(choice::RANDOM, &before, &[])));
        let all: std::collections::BTreeSet<Dest> = slots.iter().map(|slot| slot.to).collect();
        prop_assert!(all.iter().eq(weights.keys()));
    }
}

#[test]
fn maglev_moves_little_more_than_what_was_the_gone_backends() {
    let all: BTreeMap<Dest, u32> = (0..10).map(|n| (to(n), 1)).collect();
    let before = arrange(choice::SOURCE, &all, &[]);
    assert_eq!(before.len(), 251);
    let count = |slots: &[Slot], n| slots.iter().filter(|slot| slot.to == to(n)).count();
    for n in 0..10 {
        assert!((25..=26).contains(&count(&before, n)), "{}", count(&before, n));
    }
    let mut less = all.clone();
    less.remove(&to(3));
    let after = arrange(choice::SOURCE, &less, &now(&before));
    let moved = before.iter().zip(&after).filter(|(a, b)| a.to != b.to && a.to != to(3)).count();
    assert!(moved < 251 / 5, "{moved} of 251 lost their backend although it is there");
    let weighted: BTreeMap<Dest, u32> = [(to(0), 1), (to(1), 3)].into();
    let slots = arrange(choice::SOURCE, &weighted, &[]);
    assert!((61..=64).contains(&count(&slots, 0)), "{}", count(&slots, 0));
    assert_eq!(arrange(choice::SOURCE, &BTreeMap::new(), &[]), []);
    assert_eq!(table(50_000), 65_521);
}
