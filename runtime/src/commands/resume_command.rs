//! The command line that goes on with a run.

use std::ffi::OsString;

/// A command line that can be pasted into a shell: that of this process, with `--resume auto`. Bytes, because paths need
/// not be text.
pub(crate) fn resume_command(mut arguments: impl Iterator<Item = OsString>) -> Vec<u8> {
    let mut words: Vec<Vec<u8>> = Vec::new();
    while let Some(argument) = arguments.next() {
        let argument = argument.into_encoded_bytes();
        if argument == b"--resume" {
            arguments.next();
        } else if !argument.starts_with(b"--resume=") {
            // Only a NUL cannot be quoted, and no argument holds one.
            words.push(shlex::bytes::try_quote(&argument).map_or_else(|_| argument.clone(), |quoted| quoted.into_owned()));
        }
    }
    words.join(&b' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_can_be_pasted_and_resumes_automatically() {
        let command = |arguments: &[&str]| String::from_utf8(resume_command(arguments.iter().map(OsString::from))).expect("text");
        assert_eq!(
            command(&["swav-rt", "train", "--data", "my images", "--resume", "never", "--set", "crops.nmb_crops=[2, 6]"]),
            "swav-rt train --data 'my images' --set 'crops.nmb_crops=[2, 6]'"
        );
        assert_eq!(command(&["swav-rt", "--resume=run/checkpoints/step-00000002", "--out", "it's"]), "swav-rt --out \"it's\"");
    }
}
