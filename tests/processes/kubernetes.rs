//! The manifest in `deploy/kubernetes`: it is YAML, its parts belong together, and the program's own end comes before
//! Kubernetes'. It is read by python3 and its package yaml; skipped, with a note, without them.
#![cfg(feature = "admin")]

use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the head of the manifest and deploy/README.md say of the program, in seconds.
const LAME_DUCK: u64 = 10;
const GRACE: u64 = 8;

fn file() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/kubernetes/echo.yaml")
}

/// Returns the documents of the manifest; `None` without a parser.
fn documents() -> Option<Vec<Value>> {
    let program = "import json, sys, yaml; print(json.dumps(list(yaml.safe_load_all(open(sys.argv[1])))))";
    let has_parser = Command::new("python3").args(["-c", "import yaml"]).output();
    if !has_parser.is_ok_and(|output| output.status.success()) {
        println!("skipped: there is no python3 with the package yaml");
        return None;
    }
    let output = Command::new("python3").args(["-c", program]).arg(file()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn texts(list: &Value, field: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|item| item[field].as_str().unwrap().to_owned()).collect()
}

#[test]
fn the_manifest_has_a_deployment_a_service_and_a_budget_of_the_same_pods() {
    let Some(documents) = documents() else { return };
    let kinds: Vec<_> = documents.iter().map(|it| (it["apiVersion"].as_str(), it["kind"].as_str())).collect();
    let expected = [("apps/v1", "Deployment"), ("v1", "Service"), ("policy/v1", "PodDisruptionBudget")];
    assert_eq!(kinds, expected.map(|(version, kind)| (Some(version), Some(kind))));
    let [deployment, service, budget] = &documents[..] else { unreachable!() };
    let labels = &deployment["spec"]["template"]["metadata"]["labels"];
    for selector in [
        &deployment["spec"]["selector"]["matchLabels"],
        &service["spec"]["selector"],
        &budget["spec"]["selector"]["matchLabels"],
    ] {
        assert!(selector.is_object() && selector == labels, "{selector}");
    }
}

#[test]
fn the_probes_and_the_service_name_ports_of_the_container() {
    let Some(documents) = documents() else { return };
    let container = &documents[0]["spec"]["template"]["spec"]["containers"][0];
    let ports = texts(&container["ports"], "name");
    assert_eq!(ports, ["lines", "web", "admin"]);
    for (probe, path) in [("readinessProbe", "/ready"), ("livenessProbe", "/live")] {
        let get = &container[probe]["httpGet"];
        assert_eq!((get["path"].as_str(), get["port"].as_str()), (Some(path), Some("admin")), "{probe}");
    }
    let targets = texts(&documents[1]["spec"]["ports"], "targetPort");
    assert_eq!(targets, ["lines", "web"], "strangers must not reach the admin port");
}

#[test]
fn the_program_ends_by_itself_before_kubernetes_kills_it() {
    let Some(documents) = documents() else { return };
    let spec = &documents[0]["spec"];
    let pod = &spec["template"]["spec"];
    let killed_after = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
    assert!(killed_after >= LAME_DUCK + GRACE + 5, "{killed_after} s");
    assert!(pod["containers"][0]["lifecycle"].is_null(), "the lame duck takes the place of `preStop`");
    let update = &spec["strategy"]["rollingUpdate"];
    assert_eq!((update["maxUnavailable"].as_u64(), update["maxSurge"].as_u64()), (Some(0), Some(1)));
    // A blocked executor is found after 2 s, so the probe must not give up before.
    assert!(pod["containers"][0]["livenessProbe"]["timeoutSeconds"].as_u64() > Some(2));
    let text = fs::read_to_string(file()).unwrap();
    assert!(text.contains(&format!("a lame duck of {LAME_DUCK} s and a grace of {GRACE} s")), "{text}");
}
