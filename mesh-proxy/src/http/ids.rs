//! Ids of requests: random UUIDs from the pod's own dice. They tell requests apart, they keep no secret: the kernel need not be asked for each.

use http::HeaderValue;
use rand::RngCore;

/// A value for `x-request-id`.
pub(super) fn request_id(rng: &mut dyn RngCore) -> HeaderValue {
    let mut bytes = [0; 16];
    rng.fill_bytes(&mut bytes);
    let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
    let mut text = uuid::Uuid::encode_buffer();
    let text = id.hyphenated().encode_lower(&mut text);
    HeaderValue::from_str(text).unwrap_or_else(|_never| HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::{SeedableRng, rngs::SmallRng};

    #[test]
    fn ids_are_random_uuids() {
        let mut rng = SmallRng::seed_from_u64(1);
        let ids: std::collections::HashSet<_> = (0..1000).map(|_| request_id(&mut rng)).collect();
        assert_eq!(ids.len(), 1000);
        for id in ids {
            let id: uuid::Uuid = id.to_str().expect("text").parse().expect("a UUID");
            assert_eq!(id.get_version(), Some(uuid::Version::Random));
        }
    }
}
