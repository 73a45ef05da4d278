//! What cargo knows about this workspace.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The workspace this program belongs to.
pub struct Workspace {
    /// The folder of the root manifest.
    pub root: PathBuf,
    /// Where cargo builds.
    pub target: PathBuf,
    /// Its packages.
    pub packages: Vec<Package>,
    /// What `unwind/src/variant.rs` is to make of the cache.
    pub cache: Option<&'static str>,
}

/// A package of the workspace.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its name: `unspool-tls`.
    pub name: String,
    /// Its folder, relative to the root, with `/`: `examples/demo`.
    pub folder: String,
    /// The packages its manifest names, of any kind and from anywhere.
    pub dependencies: Vec<String>,
    /// Whether `cargo build` builds it.
    pub is_default: bool,
}

/// The cargo that started us, so that its toolchain is used throughout.
pub fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// What a command of cargo's says.
fn said(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().context("cannot start cargo")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed:\n{errors}");
    Ok(output.stdout)
}

impl Workspace {
    /// Asks `cargo metadata` of the root manifest.
    ///
    /// # Errors
    /// cargo fails (a manifest is wrong), or says something unexpected.
    pub fn load() -> Result<Self> {
        // `cargo run` says where xtask is, so the command works from any folder. Asked at run time:
        // with a shared target directory, this program may have been built in another clone.
        let folder = env::var_os("CARGO_MANIFEST_DIR")
            .map_or_else(env::current_dir, |folder| Ok(PathBuf::from(folder)))?;
        // The root's, whose default members are the workspace's: a member's is only itself.
        let place = ["locate-project", "--workspace", "--message-format=plain"];
        let root = said(cargo().args(place).current_dir(folder))?;
        let root = String::from_utf8(root).context("the workspace's path is no text")?;
        let metadata = ["metadata", "--format-version=1", "--no-deps", "--manifest-path"];
        let metadata = said(cargo().args(metadata).arg(root.trim_end()))?;
        let metadata = serde_json::from_slice(&metadata).context("`cargo metadata`")?;
        Self::parse(&metadata).context("`cargo metadata` lacks an expected field")
    }

    fn parse(metadata: &Value) -> Option<Self> {
        let root = PathBuf::from(metadata["workspace_root"].as_str()?);
        let target = metadata["target_directory"].as_str()?.into();
        let packages = metadata["packages"].as_array()?.iter();
        let defaults = metadata["workspace_default_members"].as_array()?;
        let packages =
            packages.map(|each| Package::parse(each, &root, defaults)).collect::<Option<_>>()?;
        Some(Self { root, target, packages, cache: None })
    }

    /// The same with another cache in the unwinder, built in a folder of its own: all such variants
    /// share what they do not differ in, and the usual one is built once.
    pub fn with_cache(&self, variant: &'static str) -> Self {
        Self {
            root: self.root.clone(),
            target: self.output().join("cache"),
            packages: self.packages.clone(),
            cache: Some(variant),
        }
    }

    /// `cargo` in the workspace's root.
    pub fn cargo(&self) -> Command {
        let mut cargo = cargo();
        cargo.current_dir(&self.root);
        if let Some(variant) = self.cache {
            cargo.env("CARGO_TARGET_DIR", &self.target).env("UNSPOOL_CACHE", variant);
        }
        cargo
    }

    /// Where this program puts what it makes, apart from cargo's files.
    pub fn output(&self) -> PathBuf {
        self.target.join("unspool")
    }
}

impl Package {
    fn parse(package: &Value, root: &Path, defaults: &[Value]) -> Option<Self> {
        let manifest = Path::new(package["manifest_path"].as_str()?);
        let folder = manifest.parent()?.strip_prefix(root).ok()?.to_str()?.to_owned();
        let dependencies = package["dependencies"].as_array()?.iter();
        let dependencies = dependencies
            .map(|each| Some(each["name"].as_str()?.to_owned()))
            .collect::<Option<_>>()?;
        let name = package["name"].as_str()?.to_owned();
        Some(Self { name, folder, dependencies, is_default: defaults.contains(&package["id"]) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_workspace_has_this_package() {
        let workspace = Workspace::load().unwrap();
        let package = workspace.packages.iter().find(|each| each.name == "xtask").unwrap();
        assert!(package.dependencies.iter().any(|name| name == "unspool-stack-trace"));
        assert!(workspace.root.join(&package.folder).join("Cargo.toml").exists());
    }
}
