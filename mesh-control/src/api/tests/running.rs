//! What Marathon runs, as kubectl reads it.

use super::*;

#[tokio::test]
async fn pods_services_endpoints_and_nodes_are_read_only() {
    let world = World::new().await;
    let pods = world.get("/api/v1/namespaces/default/pods").await.json();
    let names: Vec<_> = pods["items"].as_array().unwrap().iter().map(|pod| pod["metadata"]["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 3, "{names:?}");
    let one = world.get(&format!("/api/v1/namespaces/default/pods/{}", names[1])).await.json();
    assert_eq!((&one["kind"], &one["metadata"]["labels"]["version"]), (&json!("Pod"), &json!("v1")), "{one}");
    assert!(one["status"]["podIP"].as_str().unwrap().starts_with("9.0."), "{one}");
    let some = world.get("/api/v1/pods?labelSelector=app%3Dreviews").await.json();
    assert_eq!(some["items"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/api/v1/namespaces/other/pods").await.json()["items"], json!([]));

    let service = world.get("/api/v1/namespaces/default/services/reviews").await.json();
    assert_eq!((&service["spec"]["clusterIP"], &service["spec"]["ports"][0]["port"]), (&json!("11.15.94.83"), &json!(9080)));
    let endpoints = world.get("/api/v1/namespaces/default/endpoints/reviews").await.json();
    assert_eq!(endpoints["subsets"][0]["addresses"].as_array().unwrap().len(), 2, "{endpoints}");
    let edge = world.get("/api/v1/namespaces/istio-system/services/istio-ingressgateway").await.json();
    assert_eq!(edge["status"]["loadBalancer"]["ingress"][0]["ip"], "10.0.0.1");
    let nodes = world.get("/api/v1/nodes").await.json();
    assert_eq!(nodes["items"].as_array().unwrap().len(), 2);
    assert_eq!(world.get("/api/v1/nodes/10.0.0.0").await.json()["status"]["addresses"][0]["address"], "10.0.0.0");

    assert_eq!(world.get("/api/v1/namespaces/default/pods/none").await.code, StatusCode::NOT_FOUND);
    assert_eq!(world.get("/api/v1/namespaces/default/nodes").await.code, StatusCode::NOT_FOUND);
    let pod = json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "x" } });
    let refused = world.post("/api/v1/namespaces/default/pods", &pod).await;
    assert_eq!(refused.code, StatusCode::METHOD_NOT_ALLOWED);
    assert!(refused.message().contains("what Marathon runs"), "{}", refused.message());
}
