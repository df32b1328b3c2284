//! A folder and all that is in it, in memory: names apart from files, as on a disk.

use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// A file or a folder, whatever its name is. It is never used for another one.
pub type FileId = usize;

/// The folder that holds everything.
pub const ROOT: FileId = 0;
/// Zeros of this length are left out when a file is written: most of a database's segment is still empty.
const BLOCK_BYTES: usize = 4096;

/// What a file id stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// Its bytes.
    File(Vec<u8>),
    /// Its entries.
    Folder(BTreeMap<String, FileId>),
}

/// Where a name is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The folder.
    pub folder: FileId,
    /// The name in it.
    pub name: String,
}

/// A folder and all that is in it. Nodes without a name may be among them: their names were lost, or not made yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tree {
    nodes: BTreeMap<FileId, Node>,
}

impl Default for Tree {
    fn default() -> Tree {
        Tree { nodes: BTreeMap::from([(ROOT, Node::Folder(BTreeMap::new()))]) }
    }
}

impl Tree {
    /// Reads a folder. `found` hears of each file and folder in it, with its path.
    ///
    /// # Errors
    /// The system's; or there is something else than files and folders.
    pub fn read(root: &Path, mut found: impl FnMut(&Path, FileId)) -> anyhow::Result<Tree> {
        let mut tree = Tree::default();
        found(root, ROOT);
        let mut folders = vec![(root.to_owned(), ROOT)];
        let mut next = ROOT + 1;
        while let Some((path, folder)) = folders.pop() {
            for entry in fs::read_dir(&path).with_context(|| path.display().to_string())? {
                let entry = entry?;
                let (kind, path) = (entry.file_type()?, entry.path());
                let name = entry.file_name().into_string().map_err(|name| anyhow::anyhow!("{} is not UTF-8", name.display()))?;
                let node = if kind.is_dir() {
                    folders.push((path.clone(), next));
                    Node::Folder(BTreeMap::new())
                } else if kind.is_file() {
                    Node::File(fs::read(&path)?)
                } else {
                    bail!("{} is neither file nor folder", path.display());
                };
                found(&path, next);
                tree.nodes.insert(next, node);
                tree.name(&Place { folder, name }, next);
                next += 1;
            }
        }
        Ok(tree)
    }

    /// Makes a nameless node.
    pub fn add(&mut self, file: FileId, node: Node) {
        self.nodes.insert(file, node);
    }

    /// The bytes of a file; empty for what is none.
    pub fn bytes(&self, file: FileId) -> &[u8] {
        match self.nodes.get(&file) {
            Some(Node::File(bytes)) => bytes,
            Some(Node::Folder(_)) | None => &[],
        }
    }

    /// Makes an entry, in place of one that may be there.
    pub fn name(&mut self, at: &Place, file: FileId) {
        if let Some(Node::Folder(entries)) = self.nodes.get_mut(&at.folder) {
            entries.insert(at.name.clone(), file);
        }
    }

    /// Removes an entry if it is that file's.
    pub fn unname(&mut self, at: &Place, file: FileId) {
        if let Some(Node::Folder(entries)) = self.nodes.get_mut(&at.folder)
            && entries.get(&at.name) == Some(&file)
        {
            entries.remove(&at.name);
        }
    }

    /// Writes into a file, which grows as needed.
    pub fn write(&mut self, file: FileId, offset: usize, bytes: &[u8]) {
        if let Some(Node::File(all)) = self.nodes.get_mut(&file) {
            let end = offset + bytes.len();
            if all.len() < end {
                all.resize(end, 0);
            }
            all[offset..end].copy_from_slice(bytes);
        }
    }

    /// Cuts a file off, or lets it grow with zeros.
    pub fn resize(&mut self, file: FileId, len: usize) {
        if let Some(Node::File(all)) = self.nodes.get_mut(&file) {
            all.resize(len, 0);
        }
    }

    /// Everything that has a name, by its path.
    pub fn contents(&self) -> BTreeMap<PathBuf, &Node> {
        let mut contents = BTreeMap::new();
        let mut folders = vec![(PathBuf::new(), ROOT)];
        while let Some((path, folder)) = folders.pop() {
            let Some(Node::Folder(entries)) = self.nodes.get(&folder) else { continue };
            for (name, file) in entries {
                if let Some(node) = self.nodes.get(file) {
                    contents.insert(path.join(name), node);
                    folders.push((path.join(name), *file));
                }
            }
        }
        contents
    }

    /// Overwrites a file with zeros; says whether there is one.
    pub fn spoil(&mut self, path: &Path) -> bool {
        let mut file = ROOT;
        for part in path.components() {
            let Some(Node::Folder(entries)) = self.nodes.get(&file) else { return false };
            let Some(next) = part.as_os_str().to_str().and_then(|name| entries.get(name)) else { return false };
            file = *next;
        }
        match self.nodes.get_mut(&file) {
            Some(Node::File(bytes)) => {
                bytes.fill(0);
                true
            }
            Some(Node::Folder(_)) | None => false,
        }
    }

    /// Where two trees first differ in what has a name.
    pub fn difference(&self, other: &Tree) -> Option<String> {
        let (left, right) = (self.contents(), other.contents());
        let name = left.keys().chain(right.keys()).find(|path| !matches_at(&left, &right, path))?;
        let at = match (left.get(name), right.get(name)) {
            (Some(Node::File(a)), Some(Node::File(b))) => {
                let byte = a.iter().zip(b).position(|(a, b)| a != b).unwrap_or(a.len().min(b.len()));
                format!("the byte {byte} on, of {} and {} bytes", a.len(), b.len())
            }
            (Some(_), Some(_)) => "its kind on".to_owned(),
            (left, _) => format!("whether it is there ({})", left.is_some()),
        };
        Some(format!("{}: from {at}", name.display()))
    }

    /// Writes everything that has a name into a folder, which is made.
    ///
    /// # Errors
    /// The system's.
    pub fn write_to(&self, root: &Path) -> anyhow::Result<()> {
        fs::create_dir_all(root)?;
        for (path, node) in self.contents() {
            let path = root.join(path);
            match node {
                Node::Folder(_) => fs::create_dir(&path)?,
                Node::File(bytes) => {
                    let file = File::create(&path)?;
                    file.set_len(bytes.len() as u64)?;
                    for (n, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
                        if block.iter().any(|byte| *byte != 0) {
                            file.write_all_at(block, (n * BLOCK_BYTES) as u64)?;
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

fn matches_at(left: &BTreeMap<PathBuf, &Node>, right: &BTreeMap<PathBuf, &Node>, path: &Path) -> bool {
    match (left.get(path), right.get(path)) {
        (Some(Node::File(left)), Some(Node::File(right))) => left == right,
        (Some(Node::Folder(_)), Some(Node::Folder(_))) => true,
        (_, _) => false,
    }
}
