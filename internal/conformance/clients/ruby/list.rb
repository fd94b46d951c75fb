# list.rb ENDPOINT BUCKET
#
# Prints the names of the bucket's objects, one a line.

require "aws-sdk-s3"

endpoint, bucket = ARGV
s3 = Aws::S3::Client.new(endpoint: endpoint, force_path_style: true, retry_limit: 0)
puts s3.list_objects_v2(bucket: bucket).contents.map(&:key)
