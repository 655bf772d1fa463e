//! The sessions in tests/cmd are a manual that cannot rot. `TRYCMD=overwrite` renews them; then
//! put `[..]` where ids, secrets and times stand.

#[test]
fn sessions_of_the_manual() {
    trycmd::TestCases::new()
        .register_bin("keygatectl", std::path::Path::new(env!("CARGO_BIN_EXE_keygatectl")))
        .env("USER", "kim")
        .case("tests/cmd/*.md");
}
