//! Many pictures: which files are meant, and reading ahead of the one at work.

use crate::error::{ErrorKind, IntoError, Result};
use std::cmp::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The files that `inputs` mean, in order and each once. A file is itself, whatever its name. A folder is the PNG, JPEG
/// and WebP files in it by extension (hidden ones and folders within are passed over). Anything else is a pattern
/// (`*`, `?`, `[..]`, `**`) for files. What a folder or pattern gives is in [natural order](natural_order).
///
/// # Errors
/// `NotFound` if a file, or any match of a folder or pattern, is missing; `Argument` for a malformed pattern; `Io` if a
/// folder cannot be read.
#[cfg(all(feature = "cli", not(target_arch = "wasm32")))]
pub fn expand<S: AsRef<str>>(inputs: &[S]) -> Result<Vec<std::path::PathBuf>> {
    use crate::error::{Error, ensure};
    use std::path::{Path, PathBuf};

    let mut seen = std::collections::HashSet::new();
    let mut out = Vec::new();
    for input in inputs {
        let input = input.as_ref();
        let path = Path::new(input);
        let mut found: Vec<PathBuf> = if path.is_dir() {
            pictures_in(path)?.0
        } else if path.exists() || !input.contains(['*', '?', '[']) {
            ensure!(path.exists(), NotFound, "{input}: no such file");
            vec![path.to_owned()]
        } else {
            let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
            let pattern = || format!("pattern {input}");
            let paths = glob::glob_with(input, options).error(ErrorKind::Argument, pattern)?;
            let paths = paths.collect::<Result<Vec<_>, _>>().error(ErrorKind::Io, pattern)?;
            let files: Vec<_> = paths.into_iter().filter(|p| !p.is_dir()).collect();
            ensure!(!files.is_empty(), NotFound, "no file matches {input}");
            files
        };
        found.sort_by(|a, b| natural_order(&a.to_string_lossy(), &b.to_string_lossy()));
        out.extend(found.into_iter().filter(|p| seen.insert(p.clone())));
    }
    if out.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no picture is given"));
    }
    Ok(out)
}

/// The PNG, JPEG and WebP files of a folder by extension, and its other files; hidden ones and folders are neither.
///
/// # Errors
/// `NotFound` if there is no picture, `Io` if the folder cannot be read.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn pictures_in(folder: &std::path::Path) -> Result<(Vec<std::path::PathBuf>, Vec<std::path::PathBuf>)> {
    let unreadable = || format!("cannot read folder {}", folder.display());
    let entries = std::fs::read_dir(folder).error(ErrorKind::Io, unreadable)?;
    let paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>().error(ErrorKind::Io, unreadable)?;
    let hidden = |path: &std::path::Path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
    let files = paths.into_iter().filter(|path| !hidden(path) && !path.is_dir());
    let (pictures, others): (Vec<_>, Vec<_>) = files.partition(|path| {
        let extension = path.extension().unwrap_or_default().to_string_lossy().to_lowercase();
        ["png", "jpg", "jpeg", "webp"].contains(&extension.as_str())
    });
    crate::error::ensure!(
        !pictures.is_empty(),
        NotFound,
        "no PNG, JPEG or WebP picture in folder {}",
        folder.display()
    );
    Ok((pictures, others))
}

/// Orders names as people count: `frame2` before `frame10`, upper and lower case alike. Names that differ only in case
/// or leading zeros are ordered by their bytes, so no two count as equal.
pub fn natural_order(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a, b);
    loop {
        let (Some(c), Some(d)) = (x.chars().next(), y.chars().next()) else {
            return x.len().cmp(&y.len()).then_with(|| a.cmp(b));
        };
        let order = if c.is_ascii_digit() && d.is_ascii_digit() {
            let (m, n) = (take_number(&mut x), take_number(&mut y));
            m.len().cmp(&n.len()).then_with(|| m.cmp(n))
        } else {
            (x, y) = (&x[c.len_utf8()..], &y[d.len_utf8()..]);
            c.to_lowercase().cmp(d.to_lowercase())
        };
        if order.is_ne() {
            return order;
        }
    }
}

/// Splits the digits off the front, without leading zeros: longer is then larger.
fn take_number<'a>(text: &mut &'a str) -> &'a str {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, rest) = text.split_at(end);
    *text = rest;
    number.trim_start_matches('0')
}

type Job<R> = Box<dyn FnOnce() -> R + Send>;
type Jobs<R> = Box<dyn FnMut() -> Option<Job<R>> + Send>;

/// Runs a function over items on other threads, ahead of whoever iterates, and gives the results in the items' order:
/// pictures are decoded and resized while the device works on the one before.
///
/// At most `depth` items are begun and not yet taken, so memory does not grow with their number. Dropping it begins no
/// more; what is under way ends on its own, unseen. In a browser there are no threads: there each item is worked when
/// it is asked for.
pub struct Ahead<R> {
    shared: Arc<Shared<R>>,
}

struct Shared<R> {
    state: Mutex<State<R>>,
    changed: Condvar,
    depth: usize,
}

struct State<R> {
    jobs: Jobs<R>,
    /// Items begun, and items taken by the iterator.
    begun: usize,
    taken: usize,
    /// Results of items `taken..`, as far as they are there.
    ready: std::collections::VecDeque<Option<std::thread::Result<R>>>,
    /// No item is left, or nobody wants one.
    ended: bool,
}

impl<R: Send + 'static> Ahead<R> {
    /// Begins to run `f` over `items` on `threads` threads, at most `depth` ahead; of either, at least one.
    ///
    /// # Errors
    /// `Io` if the system gives no thread.
    pub fn new<T: Send + 'static>(
        items: impl IntoIterator<Item = T, IntoIter: Send + 'static>,
        threads: usize,
        depth: usize,
        f: impl Fn(T) -> R + Send + Sync + 'static,
    ) -> Result<Self> {
        let (mut items, f) = (items.into_iter(), Arc::new(f));
        let jobs = move || {
            let (item, f) = (items.next()?, f.clone());
            Some(Box::new(move || f(item)) as Job<R>)
        };
        let state = State { jobs: Box::new(jobs), begun: 0, taken: 0, ready: Default::default(), ended: false };
        let depth = depth.max(1);
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new(), depth });
        let ahead = Self { shared };
        let threads = if cfg!(target_arch = "wasm32") { 0 } else { threads.clamp(1, depth) };
        for _ in 0..threads {
            let shared = ahead.shared.clone();
            let thread = std::thread::Builder::new().name("ahead".into()).spawn(move || shared.work());
            thread.error(ErrorKind::Io, || "cannot start a thread to read pictures ahead")?;
        }
        Ok(ahead)
    }
}

impl<R> Shared<R> {
    fn lock(&self) -> MutexGuard<'_, State<R>> {
        // Jobs run outside the lock; only the items' own `next` could panic inside it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<R>>) -> MutexGuard<'a, State<R>> {
        self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            while !state.ended && state.begun - state.taken >= self.depth {
                state = self.wait(state);
            }
            let Some(job) = state.begin() else {
                self.changed.notify_all();
                return;
            };
            let number = state.begun - 1;
            drop(state);
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
            state = self.lock();
            let place = number - state.taken;
            state.ready[place] = Some(result);
            self.changed.notify_all();
        }
    }
}

impl<R> State<R> {
    fn begin(&mut self) -> Option<Job<R>> {
        let job = if self.ended { None } else { (self.jobs)() };
        match job {
            Some(_) => {
                self.begun += 1;
                self.ready.push_back(None);
            }
            None => self.ended = true,
        }
        job
    }
}

impl<R> Iterator for Ahead<R> {
    type Item = R;

    /// The next result; waits for it. If the function panicked on this item, so does this.
    fn next(&mut self) -> Option<R> {
        let mut state = self.shared.lock();
        if cfg!(target_arch = "wasm32") {
            return (state.jobs)().map(|job| job());
        }
        loop {
            match state.ready.front() {
                None if state.ended => return None,
                Some(Some(_)) => break,
                _ => state = self.shared.wait(state),
            }
        }
        let result = state.ready.pop_front().flatten()?;
        state.taken += 1;
        drop(state);
        self.shared.changed.notify_all();
        Some(result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    }
}

impl<R> Drop for Ahead<R> {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::time::Duration;

    #[test]
    fn names_are_ordered_as_people_count() {
        let mut names = ["f10", "f9", "F2", "f", "f2b", "f02", "g1", "f2", "", "é2", "f2a10", "f2a9"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(names, ["", "f", "F2", "f02", "f2", "f2a9", "f2a10", "f2b", "f9", "f10", "g1", "é2"]);
        assert_eq!(natural_order("99999999999999999999999998", "99999999999999999999999999"), Ordering::Less);
    }

    #[cfg(feature = "cli")]
    #[test]
    fn inputs_are_expanded() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        for name in ["p10.png", "p9.JPG", "notes.txt", ".hidden.png", "a[1].webp"] {
            std::fs::write(at(name), "").unwrap();
        }
        std::fs::create_dir(at("folder.png")).unwrap();
        let names = |inputs: &[String]| -> Result<Vec<String>> {
            Ok(expand(inputs)?.iter().map(|p| p.file_name().unwrap().to_str().unwrap().to_owned()).collect())
        };
        assert_eq!(names(&[at("")]).unwrap(), ["a[1].webp", "p9.JPG", "p10.png"]);
        assert_eq!(names(&[at("p10.png"), at("p*")]).unwrap(), ["p10.png", "p9.JPG"]);
        assert_eq!(names(&[at("a[1].webp"), at("notes.txt")]).unwrap(), ["a[1].webp", "notes.txt"]);
        for (input, what) in [
            (at("none.png"), "no such file"),
            (at("*.gif"), "no file matches"),
            (at("folder.png"), "no PNG, JPEG or WebP picture in folder"),
        ] {
            let e = names(&[input]).unwrap_err();
            assert!(e.kind() == ErrorKind::NotFound && e.to_string().contains(what), "{e}");
        }
        assert_eq!(names(&[at("x***")]).unwrap_err().kind(), ErrorKind::Argument);
        assert_eq!(expand::<&str>(&[]).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn results_come_in_order_and_few_are_ahead() {
        let (begun, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let (b, t) = (begun.clone(), taken.clone());
        let most = Arc::new(AtomicUsize::new(0));
        let m = most.clone();
        let ahead = Ahead::new(0..50usize, 4, 3, move |i| {
            m.fetch_max(b.fetch_add(1, SeqCst) + 1 - t.load(SeqCst), SeqCst);
            // Later items are done earlier.
            std::thread::sleep(Duration::from_millis([3, 2, 1, 0][i % 4]));
            i * i
        });
        for (i, got) in ahead.unwrap().enumerate() {
            assert_eq!(got, i * i);
            taken.fetch_add(1, SeqCst);
        }
        assert_eq!(begun.load(SeqCst), 50);
        // One more than the depth may be counted: taken by the iterator, not yet by this test.
        assert!(most.load(SeqCst) <= 4, "{most:?}");
        assert!(Ahead::new(0..0, 2, 2, |i| i).unwrap().next().is_none());
        let mut one = Ahead::new([7], 0, 0, |i| i).unwrap();
        assert_eq!((one.next(), one.next(), one.next()), (Some(7), None, None));
    }

    #[test]
    fn dropping_begins_no_more() {
        let begun = Arc::new(AtomicUsize::new(0));
        let b = begun.clone();
        let mut ahead = Ahead::new(0.., 2, 2, move |i: usize| {
            b.fetch_add(1, SeqCst);
            i
        })
        .unwrap();
        assert_eq!(ahead.next(), Some(0));
        drop(ahead);
        assert!(begun.load(SeqCst) <= 3);
    }

    #[test]
    fn a_panic_reaches_whoever_iterates() {
        let mut ahead = Ahead::new(0..3, 2, 2, |i| if i == 1 { panic!("one") } else { i }).unwrap();
        assert_eq!(ahead.next(), Some(0));
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| ahead.next()));
        assert_eq!(*caught.unwrap_err().downcast::<&str>().unwrap(), "one");
        assert_eq!(ahead.next(), Some(2));
    }
}
