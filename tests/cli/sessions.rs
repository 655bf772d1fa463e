//! The sessions in tests/cmd are a manual that cannot become outdated. `TRYCMD=overwrite` renews
//! them. Afterwards put `[..]` in place of ids, secrets and times.

#[test]
fn sessions_of_the_manual() {
    trycmd::TestCases::new()
        .register_bin("keygatectl", std::path::Path::new(env!("CARGO_BIN_EXE_keygatectl")))
        .env("USER", "kim")
        .case("tests/cmd/*.md");
}
