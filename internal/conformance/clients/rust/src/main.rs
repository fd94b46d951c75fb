//! list ENDPOINT BUCKET
//!
//! Prints the names of the bucket's objects, one a line.

use aws_config::{BehaviorVersion, retry::RetryConfig};
use aws_sdk_s3::{Client, config::Builder, error::DisplayErrorContext};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let args: Vec<String> = std::env::args().collect();
    let [_, endpoint, bucket] = args.as_slice() else {
        eprintln!("usage: list ENDPOINT BUCKET");
        std::process::exit(2);
    };
    let shared = aws_config::defaults(BehaviorVersion::latest())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .load()
        .await;
    let config = Builder::from(&shared)
        .endpoint_url(endpoint)
        .force_path_style(true)
        .retry_config(RetryConfig::disabled())
        .build();
    match Client::from_conf(config).list_objects_v2().bucket(bucket).send().await {
        Ok(page) => page.contents().iter().filter_map(|o| o.key()).for_each(|key| println!("{key}")),
        Err(e) => {
            eprintln!("list: {}", DisplayErrorContext(&e));
            std::process::exit(1);
        }
    }
}
