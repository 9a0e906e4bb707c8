//! The Helm chart and the plain manifest.

use anyhow::{Context as _, ensure};
use k8s_openapi::api::{apps::v1 as apps, core::v1 as core, rbac::v1 as rbac};
use podlane::config::Settings;
use podlane_tests::helm::{Helm, Release};
use podlane_tests::{Binaries, Run, manifest};
use serde::{Deserialize as _, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

const DOCS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/install.md");

const RBAC: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/kubernetes/rbac.yaml");

/// Helm, or why the test is skipped: its library is not in apt, and PyPI may be out of reach.
fn helm() -> Option<Helm> {
    match Helm::find_or_fetch() {
        Ok(helm) => Some(helm),
        Err(error) => {
            println!("skipped: {error:#}");
            None
        }
    }
}

fn render(helm: &Helm, kubernetes: &str, values: &Value) -> anyhow::Result<Vec<Value>> {
    let release = Release { name: "net", namespace: "podlane", values, kubernetes };
    documents(&helm.template(&manifest::chart(), release)?)
}

fn documents(text: &str) -> anyhow::Result<Vec<Value>> {
    let documents = serde_norway::Deserializer::from_str(text).map(Value::deserialize);
    Ok(documents.collect::<Result<Vec<_>, _>>()?)
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> anyhow::Result<&'a Value> {
    documents.iter().find(|document| document["kind"] == kind).with_context(|| format!("no {kind}"))
}

/// A field that the API's type does not know is lost on the way through it; one of another type is an error.
fn through<T: DeserializeOwned + Serialize>(document: &Value) -> anyhow::Result<Value> {
    Ok(serde_json::to_value(serde_json::from_value::<T>(document.clone())?)?)
}

fn check_schema(documents: &[Value]) -> anyhow::Result<()> {
    for document in documents {
        let kind = document["kind"].as_str().context("a document without kind")?;
        let same = match kind {
            "ServiceAccount" => through::<core::ServiceAccount>(document),
            "ConfigMap" => through::<core::ConfigMap>(document),
            "ClusterRole" => through::<rbac::ClusterRole>(document),
            "ClusterRoleBinding" => through::<rbac::ClusterRoleBinding>(document),
            "Role" => through::<rbac::Role>(document),
            "RoleBinding" => through::<rbac::RoleBinding>(document),
            "DaemonSet" => through::<apps::DaemonSet>(document),
            other => anyhow::bail!("{other} is not checked: add its type here"),
        };
        let same = same.with_context(|| format!("{kind} is none: {document:#}"))?;
        ensure!(same == *document, "{kind} has unknown fields: {document:#}\nis understood as {same:#}");
    }
    Ok(())
}

#[test]
fn the_plain_manifest_is_the_chart_with_its_own_values() -> anyhow::Result<()> {
    let Some(helm) = helm() else { return Ok(()) };
    let (file, rendered) = (fs_err::read_to_string(manifest::FILE)?, manifest::render(&helm)?);
    ensure!(file == rendered, "{} is not what the chart renders: cargo xtask manifest", manifest::FILE);
    Ok(())
}

#[test]
fn helm_finds_no_fault_in_the_chart() -> anyhow::Result<()> {
    let Some(helm) = helm() else { return Ok(()) };
    assert_eq!(helm.lint(&manifest::chart())?, "");
    // It would find one.
    let folder = std::env::temp_dir().join(format!("podlane-lint-{}", std::process::id()));
    Run::new("cp").arg("-r").arg(manifest::chart()).arg(&folder).read()?;
    let spoilt = fs_err::write(folder.join("templates/bad.yaml"), "a: [{{ .Values.image.tag }");
    let said = helm.lint(&folder);
    fs_err::remove_dir_all(&folder)?;
    spoilt?;
    ensure!(!said.unwrap_or_else(|error| error.to_string()).is_empty());
    Ok(())
}

#[test]
fn every_document_is_what_the_kubernetes_api_knows() -> anyhow::Result<()> {
    // Always, the plain one.
    let plain = documents(&fs_err::read_to_string(manifest::FILE)?)?;
    check_schema(&plain)?;
    ensure!(plain.len() == 7, "{} documents", plain.len());
    let mut odd = plain.clone();
    for document in odd.iter_mut().filter(|document| document["kind"] == "DaemonSet") {
        document["spec"]["template"]["spec"]["tolerance"] = json!([]);
    }
    ensure!(check_schema(&odd).is_err(), "an unknown field is found");

    let Some(helm) = helm() else { return Ok(()) };
    let values = json!({
        "image": { "repository": "registry.example:5000/podlane", "tag": "test" },
        "imagePullSecrets": [{ "name": "registry" }],
        "config": { "clusterSource": "kubernetes", "tunnel": "always", "uplinks": ["eth0", "eth1"], "mtu": 9000 },
        "metrics": { "port": 9000, "address": "[::]", "annotations": false },
        "cni": { "binDir": "/usr/libexec/cni", "removeWhenUninstalled": false },
        "serviceAccount": { "annotations": { "a": "b" } },
        "extraCapabilities": ["SYS_RESOURCE"],
        "affinity": { "nodeAffinity": {} },
        "podAnnotations": { "c": "d" },
        "podLabels": { "e": "f" },
        "env": [{ "name": "PODLANE_LOG_LEVEL", "value": "debug" }],
    });
    let rendered = render(&helm, "v1.34.0", &values)?;
    check_schema(&rendered)?;
    let set = of_kind(&rendered, "DaemonSet")?;
    ensure!(set["metadata"]["name"] == "net" && set["metadata"]["namespace"] == "podlane");
    let pod = &set["spec"]["template"];
    let container = &pod["spec"]["containers"][0];
    ensure!(container["image"] == "registry.example:5000/podlane:test", "{container}");
    ensure!(container["lifecycle"].is_null(), "{container}");
    ensure!(container["ports"][0]["containerPort"] == 9000, "{container}");
    ensure!(
        container["securityContext"]["capabilities"]["add"]
            == json!(["NET_ADMIN", "SYS_ADMIN", "SYS_RESOURCE"])
    );
    let env = |name: &str| {
        let variables = container["env"].as_array().into_iter().flatten();
        variables.filter(|variable| variable["name"] == name).map(|v| v["value"].clone()).next_back()
    };
    assert_eq!(env("PODLANE_METRICS_ADDRESS"), Some(json!("[::]:9000")));
    assert_eq!(env("PODLANE_CNI_BIN_DIR"), Some(json!("/usr/libexec/cni")));
    assert_eq!(env("PODLANE_LOG_LEVEL"), Some(json!("debug")));
    ensure!(
        pod["metadata"]["annotations"]["prometheus.io/port"].is_null()
            && pod["metadata"]["labels"]["e"] == "f"
    );
    let config: Settings = serde_norway::from_str(
        of_kind(&rendered, "ConfigMap")?["data"]["config.yaml"].as_str().context("config.yaml")?,
    )?;
    assert_eq!((config.mtu, config.uplinks.map(|uplinks| uplinks.len())), (Some(9000), Some(2)));

    // An account of somebody else's; clusters before the field appArmorProfile.
    let values = json!({ "serviceAccount": { "name": "other" } });
    let rendered = render(&helm, "v1.29.3", &values)?;
    check_schema(&rendered)?;
    ensure!(of_kind(&rendered, "ServiceAccount").is_err());
    ensure!(of_kind(&rendered, "ClusterRoleBinding")?["subjects"][0]["name"] == "other");
    let pod = &of_kind(&rendered, "DaemonSet")?["spec"]["template"];
    ensure!(pod["spec"]["serviceAccountName"] == "other");
    ensure!(pod["spec"]["containers"][0]["securityContext"]["appArmorProfile"].is_null());
    let annotation = "container.apparmor.security.beta.kubernetes.io/agent";
    ensure!(pod["metadata"]["annotations"][annotation] == "unconfined");

    // Another configuration is another pod template: agents read it when they start.
    let hash = |config: Value| -> anyhow::Result<Value> {
        let rendered = render(&helm, "v1.34.0", &json!({ "config": config }))?;
        Ok(of_kind(&rendered, "DaemonSet")?["spec"]["template"]["metadata"]["annotations"]["podlane.io/config"].clone())
    };
    ensure!(hash(json!({ "mtu": 1400 }))? != hash(json!({ "mtu": 1500 }))?);
    Ok(())
}

#[test]
fn mistaken_values_are_refused() -> anyhow::Result<()> {
    let Some(helm) = helm() else { return Ok(()) };
    for (values, named) in [
        (json!({ "imag": {} }), "imag"),
        (json!({ "metrics": { "port": "http" } }), "port"),
        (json!({ "cni": { "binDir": "opt/cni/bin" } }), "binDir"),
        (json!({ "extraCapabilities": ["cap_bpf"] }), "extraCapabilities"),
    ] {
        let error = render(&helm, "v1.34.0", &values).err().with_context(|| format!("{values} is taken"))?;
        ensure!(format!("{error:#}").contains(named), "{values}: {error:#}");
    }
    Ok(())
}

/// Nothing in the manifest is only hoped for.
#[test]
fn the_manifest_and_the_agent_agree() -> anyhow::Result<()> {
    let plain = documents(&fs_err::read_to_string(manifest::FILE)?)?;
    let set = of_kind(&plain, "DaemonSet")?;
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    let podlane = Binaries::find()?.podlane;
    let help = Run::new(&podlane).args(["agent", "--help"]).read()?;
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    for variable in container["env"].as_array().context("env")? {
        let name = variable["name"].as_str().context("name")?;
        ensure!(help.contains(&format!("[env: {name}=")), "the agent does not read {name}: {help}");
    }
    let config = of_kind(&plain, "ConfigMap")?["data"]["config.yaml"].as_str().context("config.yaml")?;
    serde_norway::from_str::<Settings>(config)?;
    // The preStop hook's words.
    let hook = &container["lifecycle"]["preStop"]["exec"]["command"];
    let words: Vec<&str> = hook.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let help = Run::new(&podlane).args(["install-cni", "--help"]).read()?;
    ensure!(words.get(..2) == Some(&["podlane", "install-cni"]), "{words:?}");
    for word in words.iter().filter(|word| word.starts_with("--")) {
        ensure!(help.contains(word), "install-cni knows no {word}");
    }
    // The permissions are those that the agent is tested with.
    let rbac = documents(&fs_err::read_to_string(RBAC)?)?;
    ensure!(of_kind(&plain, "ClusterRole")?["rules"] == of_kind(&rbac, "ClusterRole")?["rules"]);
    let docs = fs_err::read_to_string(DOCS)?;
    for capability in container["securityContext"]["capabilities"]["add"].as_array().context("add")? {
        let capability = capability.as_str().context("a capability")?;
        ensure!(docs.contains(&format!("`CAP_{capability}`")), "{capability} is not documented");
    }
    for volume in set["spec"]["template"]["spec"]["volumes"].as_array().context("volumes")? {
        if let Some(path) = volume["hostPath"]["path"].as_str() {
            ensure!(docs.contains(&format!("`{path}`")), "{path} is not documented");
        }
    }
    // Versions go together.
    let chart: Value =
        serde_norway::from_str(&fs_err::read_to_string(manifest::chart().join("Chart.yaml"))?)?;
    let version = env!("CARGO_PKG_VERSION");
    ensure!(chart["version"] == version && chart["appVersion"] == version, "{chart}");
    Ok(())
}
