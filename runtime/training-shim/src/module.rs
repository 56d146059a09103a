//! Loads the extension module and finds ONNX Runtime's `OrtApiBase` in it.

use std::ffi::{CStr, CString, OsStr, c_int, c_void};
use std::mem::MaybeUninit;
use std::ops::Range;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use libc::{Dl_info, RTLD_GLOBAL, RTLD_NODELETE, RTLD_NOLOAD, RTLD_NOW, dl_phdr_info};

/// Start of the module's file name; Python's version follows.
const MODULE: &str = "onnxruntime_pybind11_state";

/// `endbr64`, which compilers put in front of functions.
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];
/// `lea rax, [rip + …]`, without its 32-bit distance.
const LEA_RAX_RIP: [u8; 3] = [0x48, 0x8d, 0x05];
/// `ret`.
const RET: u8 = 0xc3;

/// Loads the module that stands beside this library and returns the address of its `OrtApiBase`.
pub(crate) fn load() -> Result<usize, String> {
    let own = own_file()?;
    let module = module_beside(&own)?;
    // This library's own symbols become visible to what is loaded from now on. It is loaded already: this only changes that.
    open(&own, RTLD_NOW | RTLD_NOLOAD | RTLD_GLOBAL | RTLD_NODELETE)?;
    open(&module, RTLD_NOW | RTLD_NODELETE)?;
    let image = Image::of(&module).ok_or_else(|| format!("{}: not among the loaded libraries", module.display()))?;
    match image.api_bases()[..] {
        [address] => Ok(address),
        ref found => Err(format!("{}: expected one OrtApiBase, found {}: this is not the module of onnxruntime-training-cpu", module.display(), found.len())),
    }
}

fn own_file() -> Result<PathBuf, String> {
    let mut info = MaybeUninit::<Dl_info>::uninit();
    // SAFETY: the address is one of this library's, and `info` is written where the call says so by not returning 0. The name is a C string
    // that lives as long as the library.
    let name = unsafe {
        if libc::dladdr(load as *const c_void, info.as_mut_ptr()) == 0 {
            return Err("the loader does not know this library".into());
        }
        CStr::from_ptr(info.assume_init().dli_fname)
    };
    // Through links: the module stands beside the file itself.
    let path = Path::new(OsStr::from_bytes(name.to_bytes()));
    path.canonicalize().map_err(|error| format!("{}: {error}", path.display()))
}

fn module_beside(own: &Path) -> Result<PathBuf, String> {
    let folder = own.parent().unwrap_or(own);
    let entries = folder.read_dir().map_err(|error| format!("{}: {error}", folder.display()))?;
    let is_module = |path: &PathBuf| path.file_name().is_some_and(|name| name.as_bytes().starts_with(MODULE.as_bytes()));
    let modules: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(is_module).collect();
    match &modules[..] {
        [module] => Ok(module.clone()),
        _ => Err(format!("{}: expected one file {MODULE}*.so beside this library, found {}", folder.display(), modules.len())),
    }
}

fn open(file: &Path, flags: c_int) -> Result<(), String> {
    let name = CString::new(file.as_os_str().as_bytes()).map_err(|error| error.to_string())?;
    // SAFETY: `name` is a C string, and so is the message, which is copied before the next call that could overwrite it. Loading runs the
    // library's constructors, which is what a program asks for that uses ONNX Runtime.
    unsafe {
        if !libc::dlopen(name.as_ptr(), flags).is_null() {
            return Ok(());
        }
        let message = libc::dlerror();
        Err(if message.is_null() { format!("{}: cannot be loaded", file.display()) } else { CStr::from_ptr(message).to_string_lossy().into_owned() })
    }
}

/// Where a loaded library lies in memory.
struct Image {
    file: Vec<u8>,
    /// All segments, the gaps between them not included.
    segments: Vec<Range<usize>>,
    code: Vec<Range<usize>>,
    /// Data that is read-only once its addresses have been filled in.
    relocated: Range<usize>,
}

impl Image {
    fn of(file: &Path) -> Option<Image> {
        let mut image = Image { file: file.as_os_str().as_bytes().to_vec(), segments: vec![], code: vec![], relocated: 0..0 };
        // SAFETY: the callback gets `image` back and nothing else holds it meanwhile.
        let found = unsafe { libc::dl_iterate_phdr(Some(visit), (&raw mut image).cast()) };
        (found != 0).then_some(image)
    }

    /// Addresses that look like an `OrtApiBase`.
    fn api_bases(&self) -> Vec<usize> {
        let step = size_of::<usize>();
        self.relocated
            .clone()
            .step_by(step)
            .filter(|&address| self.word(address).zip(self.word(address + step)).is_some_and(|pair| self.is_api_base(pair)))
            .collect()
    }

    fn is_api_base(&self, (get_api, get_version): (usize, usize)) -> bool {
        let is_code = |address: usize| self.code.iter().any(|code| code.contains(&address));
        is_code(get_api) && is_code(get_version) && self.returned_text(get_version).is_some_and(|text| is_version(&text))
    }

    /// The text whose address a function returns, if it does nothing else.
    fn returned_text(&self, function: usize) -> Option<Vec<u8>> {
        let start = if self.bytes(function, 4)? == ENDBR64 { function + 4 } else { function };
        let [a, b, c, distance @ .., ret] = <[u8; 8]>::try_from(self.bytes(start, 8)?).ok()?;
        if [a, b, c] != LEA_RAX_RIP || ret != RET {
            return None;
        }
        let text = (start + 7).checked_add_signed(i32::from_le_bytes(distance) as isize)?;
        (0..).map(|index| self.bytes(text + index, 1).map(|byte| byte[0])).take(16).take_while(|byte| *byte != Some(0)).collect()
    }

    fn word(&self, address: usize) -> Option<usize> {
        Some(usize::from_ne_bytes(self.bytes(address, size_of::<usize>())?.try_into().ok()?))
    }

    /// Bytes of the library, if all of them are.
    fn bytes(&self, address: usize, length: usize) -> Option<&[u8]> {
        let end = address.checked_add(length)?;
        let inside = self.segments.iter().any(|segment| segment.start <= address && end <= segment.end);
        // SAFETY: the range lies in a segment that the loader has mapped readable, and the library is never unloaded. Nothing writes to the
        // ranges that are asked for: code, constants, and data that is read-only by now.
        inside.then(|| unsafe { std::slice::from_raw_parts(address as *const u8, length) })
    }
}

fn is_version(text: &[u8]) -> bool {
    text.len() < 16 && text.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.') && text.iter().filter(|byte| **byte == b'.').count() == 2
}

/// Fills the [`Image`] behind `data` when the loader comes to its library; anything but 0 ends the visit.
unsafe extern "C" fn visit(library: *mut dl_phdr_info, _size: usize, data: *mut c_void) -> c_int {
    // SAFETY: the loader's record is valid during the call, with `dlpi_phnum` headers, and `data` is the image of `Image::of`.
    let (library, image, headers) = unsafe {
        let library = &*library;
        (library, &mut *data.cast::<Image>(), std::slice::from_raw_parts(library.dlpi_phdr, library.dlpi_phnum.into()))
    };
    // SAFETY: a name is a C string or null.
    if library.dlpi_name.is_null() || unsafe { CStr::from_ptr(library.dlpi_name) }.to_bytes() != image.file {
        return 0;
    }
    for header in headers {
        let start = (library.dlpi_addr + header.p_vaddr) as usize;
        let range = start..start + header.p_memsz as usize;
        match header.p_type {
            libc::PT_LOAD if header.p_flags & libc::PF_R != 0 => {
                if header.p_flags & libc::PF_X != 0 {
                    image.code.push(range.clone());
                }
                image.segments.push(range);
            }
            libc::PT_GNU_RELRO => image.relocated = range,
            _ => {}
        }
    }
    1
}
