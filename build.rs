//! Compiles the schemas with protox: nobody needs protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let schemas = ["proto/aegisray.proto", "proto/chat.proto"];
    for schema in schemas {
        println!("cargo:rerun-if-changed={schema}");
    }
    let descriptors = protox::compile(schemas, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
