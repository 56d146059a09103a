//! Pickles byte by byte. `pickletools.dis` of Python explains them.

use std::time::{Duration, Instant};

use super::*;

fn read(bytes: &[u8]) -> Result<Pickle, PickleError> {
    Pickle::read(&mut &bytes[..])
}

fn message(bytes: &[u8]) -> String {
    read(bytes).expect_err("refused").to_string()
}

#[test]
fn whatever_is_not_allowed_is_refused_by_name() {
    // pickle.dumps of an object whose __reduce__ gives (os.system, ("id",)), protocols 2 and 4.
    assert!(message(b"\x80\x02cposix\nsystem\nX\x02\x00\x00\x00id\x85R.").contains("posix.system"));
    assert!(message(b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.").contains("posix.system"));
    for name in ["os\nsystem", "builtins\neval", "__builtin__\ngetattr", "torch\nload", "torch.storage\n_load_from_bytes", "collections\nOrderedDict.x"] {
        let (module, attribute) = name.split_once('\n').expect("two lines");
        let text = message(format!("c{name}\n.").as_bytes());
        assert!(text.contains(&format!("{module}.{attribute}")) && text.contains("state_dict()"), "{text}");
    }
    // An allowed class in a module of another name.
    assert!(message(b"cevil\nOrderedDict\n.").contains("evil.OrderedDict"));
}

#[test]
fn opcodes_that_create_objects_are_refused() {
    // INST, OBJ, NEWOBJ, NEWOBJ_EX, EXT1, PERSID, INT, DUP.
    for opcode in [b'i', b'o', 0x81, 0x92, 0x82, b'P', b'I', b'2'] {
        assert!(message(&[b'N', b')', opcode, b'.']).contains("none of those that torch.save writes"));
    }
}

#[test]
fn nothing_is_taken_from_below_a_mark_or_from_an_empty_stack() {
    for bytes in [&b"."[..], b"0.", b"N(0", b"N(.", b"t.", b"N\x86.", b"NN(\x86t.", b"Na.", b"(Ns", b"q\x00.", b"N(q\x00", b"h\x07.", b"NR.", b"b.", b"Q."] {
        assert!(matches!(read(bytes), Err(PickleError::Damaged { .. })), "{bytes:?}");
    }
}

#[test]
fn integers_of_every_length_are_read() {
    let int = |bytes: &[u8]| match read(bytes).expect("valid").root() {
        Value::Int(value) => *value,
        other => panic!("{other:?}"),
    };
    assert_eq!(int(b"K\xff."), 255);
    assert_eq!(int(b"M\xff\xff."), 65535);
    assert_eq!(int(b"J\xff\xff\xff\xff."), -1);
    assert_eq!(int(b"\x8a\x00."), 0);
    assert_eq!(int(b"\x8a\x02\xff\xff."), -1);
    assert_eq!(int(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), 0x1950_a86a_20f9_469c_fc6c);
    assert!(message(b"\x8a\x11aaaaaaaaaaaaaaaaa.").contains("17 bytes"));
}

#[test]
fn python_2_dictionaries_are_read() {
    // OrderedDict([["a", 1]]) as Python 2 pickles it.
    let pickle = read(b"ccollections\nOrderedDict\n]]U\x01aaK\x01aa\x85R.").expect("valid");
    let entries = pickle.entries(pickle.root()).expect("a dictionary");
    assert!(
        matches!(entries.as_slice(), [(key, value)] if matches!(pickle.get(*key), Value::Text(text) if text == "a") && matches!(pickle.get(*value), Value::Int(1)))
    );
    let not_pairs = read(b"ccollections\nOrderedDict\n]K\x01a\x85R.").expect("valid");
    assert!(not_pairs.entries(not_pairs.root()).is_none());
}

#[test]
fn claimed_lengths_allocate_nothing() {
    // Text of 4 GB, of 2^63 bytes, bytes of 15 MB: of which none is there.
    assert!(matches!(read(b"X\xff\xff\xff\xffabc"), Err(PickleError::TooLong)));
    assert!(matches!(read(b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fabc"), Err(PickleError::TooLong)));
    assert!(matches!(read(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffabc"), Err(PickleError::TooLong)));
    assert!(matches!(read(b"B\x00\x00\xe0\x00abc"), Err(PickleError::Truncated { .. })));
}

#[test]
fn an_endless_pickle_ends_at_the_limit() {
    let mut endless = std::io::BufReader::new(std::io::repeat(b'N'));
    assert!(matches!(Pickle::read(&mut endless), Err(PickleError::TooLong)));
}

#[test]
fn nested_and_shared_values_cost_no_more_than_their_bytes() {
    let started = Instant::now();
    // A list in a list in a list …
    let deep: Vec<u8> = std::iter::repeat_n(b']', 1_000_000).chain(std::iter::repeat_n(b'a', 999_999)).chain(*b".").collect();
    read(&deep).expect("valid");
    // Each tuple holds the one before twice: 2^n leaves.
    let doubling: Vec<u8> = b")".iter().copied().chain(b"q\x00h\x00\x86".repeat(200_000)).chain(*b".").collect();
    read(&doubling).expect("valid");
    // A list that holds itself.
    let cyclic = read(b"]q\x00h\x00a.").expect("valid");
    assert!(cyclic.entries(cyclic.root()).is_none());
    // One long list, an OrderedDict of it again and again.
    let long: Vec<u8> = b"ccollections\nOrderedDict\nq\x01(".iter().copied().chain(std::iter::repeat_n(b'N', 1_000_000)).collect();
    let long: Vec<u8> = long.into_iter().chain(*b"t\x85q\x00").chain(b"h\x01h\x00R0".repeat(1_000_000)).chain(*b"N.").collect();
    read(&long).expect("valid");
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

/// A tensor: storage of `elements` f32, offset 0, this size and stride.
fn tensor(elements: u8, size: &[u8], stride: &[u8]) -> Vec<u8> {
    let storage =
        [b"ctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK", &[elements][..], b"tQ"];
    let numbers = |numbers: &[u8]| [b"(".to_vec(), numbers.iter().flat_map(|&number| [b'K', number]).collect(), b"t".to_vec()].concat();
    [storage.concat(), b"K\x00".to_vec(), numbers(size), numbers(stride), b"\x89NtR.".to_vec()].concat()
}

#[test]
fn tensors_are_views_of_storages() {
    let pickle = read(&tensor(6, &[2, 3], &[3, 1])).expect("valid");
    assert!(matches!(pickle.root(), Value::Tensor(tensor) if tensor.shape == [2, 3] && tensor.storage.elements == 6));
    assert_eq!(pickle.storages.len(), 1);
    assert!(message(&tensor(5, &[2, 3], &[3, 1])).contains("outside of its storage of 5 elements"));
    assert!(message(&tensor(6, &[2, 3], &[3])).contains("strides [3]"));
    assert!(message(&tensor(200, &[1; 65], &[1; 65])).contains("at most 64"));
}

#[test]
fn a_storage_has_one_type_and_size() {
    let one = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ";
    let other = b"(X\x07\x00\x00\x00storagectorch\nHalfStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x05tQ";
    read(&[&one[..], one, b"\x86."].concat()).expect("the same twice");
    assert!(message(&[&one[..], other, b"\x86."].concat()).contains("two types"));
    // A call of what is no function, and a storage of a class that is none.
    assert!(message(b"ctorch\nFloatStorage\n)R.").contains("do not fit"));
    assert!(message(b"(X\x07\x00\x00\x00storageccollections\nOrderedDict\nX\x01\x00\x00\x000NK\x05tQ.").contains("description of a storage"));
}
