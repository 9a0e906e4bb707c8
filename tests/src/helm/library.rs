//! Helm's shared object: where it is, how it comes there, its functions.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use libloading::Symbol;
use nix::fcntl::{Flock, FlockArg};
use serde_json::{Value, json};

use super::Release;
use crate::Run;

const PACKAGE: &str = "helm-sdkpy==0.1.32";
const SHA256: &str = "bcf5bf73cacc373bebedfb9c988969aa12a9eda86a140deba658fbf28eb789c5";
const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/tools/helm-sdkpy-0.1.32");
const FILE: &str = "helm_sdkpy/_lib/linux-amd64/libhelm_sdkpy.so";

/// Its path. Two who look at once do not fetch it twice.
pub(super) fn find_or_fetch() -> anyhow::Result<PathBuf> {
    ensure!(cfg!(target_arch = "x86_64"), "helm's library is built for x86_64 only");
    let folder = Path::new(FOLDER);
    let parent = folder.parent().context("the tools' folder")?;
    fs_err::create_dir_all(parent)?;
    let (lock, _) = fs_err::File::create(parent.join("helm.lock"))?.into_parts();
    let _lock = Flock::lock(lock, FlockArg::LockExclusive)
        .map_err(|(_, errno)| std::io::Error::from(errno))
        .context("waiting for another who fetches helm")?;
    let library = folder.join(FILE);
    if library.is_file() {
        return Ok(library);
    }
    let fetched = tempfile::tempdir_in(parent)?;
    let wanted = fetched.path().join("requirements.txt");
    fs_err::write(&wanted, format!("{PACKAGE} --hash=sha256:{SHA256}\n"))?;
    Run::new("python3")
        .args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version"])
        .args(["3.12", "--require-hashes", "--dest"])
        .arg(fetched.path())
        .arg("--requirement")
        .arg(&wanted)
        .timeout(std::time::Duration::from_secs(300))
        .read()
        .context("fetching helm's library from PyPI (it needs python3 with pip, and the network)")?;
    let wheel = fs_err::read_dir(fetched.path())?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip has downloaded no wheel")?;
    let unpacked = fetched.path().join("unpacked");
    Run::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&unpacked).read()?;
    fs_err::rename(&unpacked, folder)?;
    Ok(library)
}

/// The functions of it that we call.
pub(super) struct Library(libloading::Library);

type Create =
    unsafe extern "C" fn(*const c_char, *const c_char, *const c_char, *const c_char, *mut u64) -> c_int;
type Install = unsafe extern "C" fn(
    u64,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
    *const c_char,
    *mut *mut c_char,
) -> c_int;
type Lint = unsafe extern "C" fn(u64, *const c_char, *mut *mut c_char) -> c_int;

impl Library {
    pub(super) fn load(path: &Path) -> anyhow::Result<Self> {
        // SAFETY: the library's initialisers are the Go runtime's, which is made to be loaded so.
        let library = unsafe { libloading::Library::new(path) };
        Ok(Self(library.with_context(|| format!("loading {}", path.display()))?))
    }

    pub(super) fn install(
        &self,
        kubeconfig: &Path,
        chart: &Path,
        release: Release<'_>,
    ) -> anyhow::Result<()> {
        let handle = self.configuration(release.namespace, kubeconfig)?;
        let options = json!({ "wait": false, "timeout_seconds": 30, "disable_openapi_validation": true });
        let [name, values, version, options] =
            [release.name.to_owned(), release.values.to_string(), String::new(), options.to_string()]
                .map(CString::new);
        let chart = CString::new(chart.as_os_str().as_bytes())?;
        let (name, values, version, options) = (name?, values?, version?, options?);
        let mut result = std::ptr::null_mut();
        // SAFETY: the type is as in the library's header.
        let install: Symbol<'_, Install> = unsafe { self.0.get(b"helm_sdkpy_install")? };
        // SAFETY: all strings end with NUL and live until the call returns; the result is written by it.
        let code = unsafe {
            install(
                handle,
                name.as_ptr(),
                chart.as_ptr(),
                values.as_ptr(),
                version.as_ptr(),
                options.as_ptr(),
                &mut result,
            )
        };
        self.taken(code, result).map(drop)
    }

    pub(super) fn lint(&self, chart: &Path) -> anyhow::Result<String> {
        let handle = self.configuration("default", Path::new("/dev/null"))?;
        let chart = CString::new(chart.as_os_str().as_bytes())?;
        let mut result = std::ptr::null_mut();
        // SAFETY: the type is as in the library's header.
        let lint: Symbol<'_, Lint> = unsafe { self.0.get(b"helm_sdkpy_lint")? };
        // SAFETY: the string ends with NUL and lives until the call returns; the result is written by it.
        let code = unsafe { lint(handle, chart.as_ptr(), &mut result) };
        let report: Value = serde_json::from_str(&self.taken(code, result)?)?;
        // Severities: 1 is information, 2 a warning, 3 an error.
        let messages = report["Messages"].as_array().into_iter().flatten();
        let serious = messages.filter(|message| message["Severity"].as_u64() != Some(1));
        Ok(serious.map(Value::to_string).collect::<Vec<_>>().join("\n"))
    }

    /// A configuration is kept until the process ends: they are few.
    fn configuration(&self, namespace: &str, kubeconfig: &Path) -> anyhow::Result<u64> {
        let (namespace, empty, options) = (CString::new(namespace)?, CString::default(), CString::new("{}")?);
        let kubeconfig = CString::new(kubeconfig.as_os_str().as_bytes())?;
        let mut handle = 0;
        // SAFETY: the type is as in the library's header.
        let create: Symbol<'_, Create> = unsafe { self.0.get(b"helm_sdkpy_config_create")? };
        // SAFETY: all strings end with NUL and live until the call returns; the handle is written by it.
        let code = unsafe {
            create(namespace.as_ptr(), kubeconfig.as_ptr(), empty.as_ptr(), options.as_ptr(), &mut handle)
        };
        self.taken(code, std::ptr::null_mut())?;
        Ok(handle)
    }

    /// The text that a call has left, or its error.
    fn taken(&self, code: c_int, text: *mut c_char) -> anyhow::Result<String> {
        if code != 0 {
            // SAFETY: the type is as in the library's header; the text is the library's, of this thread.
            let error = unsafe {
                let last: Symbol<'_, unsafe extern "C" fn() -> *const c_char> =
                    self.0.get(b"helm_sdkpy_last_error")?;
                text_of(last())
            };
            bail!("helm: {error}");
        }
        let copy = text_of(text);
        if !text.is_null() {
            // SAFETY: the type is as in the library's header; the text is ours to free, once.
            unsafe {
                let free: Symbol<'_, unsafe extern "C" fn(*mut c_void)> = self.0.get(b"helm_sdkpy_free")?;
                free(text.cast());
            }
        }
        Ok(copy)
    }
}

fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the library's texts end with NUL.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
