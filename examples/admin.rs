use ebbtide::admin::Admin;
use ebbtide::{Connection, Server};
#[async_std::main]
async fn main() -> std::io::Result<()> {
    femme::with_level(femme::LevelFilter::Trace);
    let main = Server::bind("127.0.0.1:0").await?.name("echo");
    let admin = Admin::bind("127.0.0.1:9999").await?.watch(main.handle());
    println!("{:?}", admin.handle());
    let h = async_std::task::spawn(admin.serve());
    main.serve(async |c: Connection| c.draining().await).await?;
    h.await?;
    Ok(())
}
