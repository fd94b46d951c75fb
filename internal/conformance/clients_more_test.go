//go:build conformance && linux

package conformance

import "path/filepath"

// moreClients are the columns that make conformance-all adds; none in a run of
// the core.
func (k kit) moreClients() []client {
	if !*everything {
		return nil
	}
	// AWS_REGION says the region to all; a program that does not read it is told.
	return []client{
		{name: "AWS CLI v1", piece: k.awscli1, argv: func(endpoint, bucket string) []string {
			return []string{k.awscli1.path, "-m", "awscli", "s3api", "list-objects-v2", "--endpoint-url", endpoint, "--bucket", bucket,
				"--query", "Contents[].[Key]", "--output", "text"}
		}},
		{name: "aws-sdk (JavaScript v2)", piece: k.jsv2, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.node.path, filepath.Join(k.jsv2.path, "list.mjs"), endpoint, bucket}
		}},
		{name: "Go SDK v1", piece: k.gov1, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.gov1.path, endpoint, bucket}
		}},
		{name: "Java SDK v2", piece: k.java, argv: func(endpoint, bucket string) []string {
			return []string{"java", "-XX:TieredStopAtLevel=1", "-cp", k.java.path + ":" + filepath.Join(k.java.path, "lib", "*"), "List", endpoint, bucket}
		}},
		{name: "Rust SDK", piece: k.rust, argv: func(endpoint, bucket string) []string {
			return []string{k.rust.path, endpoint, bucket}
		}},
		{name: "Ruby SDK", piece: k.ruby, argv: func(endpoint, bucket string) []string {
			return []string{k.ruby.path, absolute("clients/ruby/list.rb"), endpoint, bucket}
		}},
		{name: "minio-go", piece: k.minioGo, loops: true, argv: func(endpoint, bucket string) []string {
			return []string{k.minioGo.path, endpoint, bucket}
		}},
		{name: "rclone", piece: k.rclone, argv: func(endpoint, bucket string) []string {
			return []string{"sh", "-c", `exec "$0" --config "" --retries 1 --low-level-retries 1 lsf --s3-region "$AWS_REGION" "$1"`,
				k.rclone.path, ":s3,provider=Minio,env_auth=true,endpoint='" + endpoint + "':" + bucket}
		}},
		{name: "s5cmd", piece: k.s5cmd, argv: func(endpoint, bucket string) []string {
			// Its lines are "2026/11/22 21:46:15    3  NAME".
			return []string{"sh", "-c", `lines=$("$@") && echo "$lines" | awk '{ print $NF }'`,
				"s5cmd", k.s5cmd.path, "--retry-count", "0", "--endpoint-url", endpoint, "ls", "s3://" + bucket + "/"}
		}},
		{name: "restic", piece: k.restic, argv: func(endpoint, bucket string) []string {
			// It lists nothing that it did not write, and it writes nothing here: status
			// 10 says that the server let it look, and that there is no repository. A
			// refusal it would try again for 15 minutes.
			return []string{"sh", "-c", `timeout 20 "$0" --no-cache --insecure-no-password --repo "$1" -o s3.bucket-lookup=path cat config; [ $? = 10 ] && echo "$2"`,
				k.restic.path, "s3:" + endpoint + "/" + bucket, objectName}
		}},
		{name: "s3fs", piece: k.s3fs, argv: func(endpoint, bucket string) []string {
			return []string{"sh", absolute("clients/s3fs/list.sh"), endpoint, bucket}
		}},
		{name: "terraform, backend s3", piece: k.terraform, argv: func(endpoint, bucket string) []string {
			return []string{"sh", absolute("clients/terraform/list.sh"), k.terraform.path, endpoint, bucket}
		}},
	}
}
