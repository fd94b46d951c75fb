import java.net.URI;

import software.amazon.awssdk.awscore.retry.AwsRetryStrategy;
import software.amazon.awssdk.http.urlconnection.UrlConnectionHttpClient;
import software.amazon.awssdk.services.s3.S3Client;

/**
 * List ENDPOINT BUCKET
 *
 * <p>Prints the names of the bucket's objects, one a line.
 */
public final class List {
    public static void main(String[] args) {
        try (S3Client s3 = S3Client.builder()
                .endpointOverride(URI.create(args[0]))
                .forcePathStyle(true)
                .httpClientBuilder(UrlConnectionHttpClient.builder())
                .overrideConfiguration(o -> o.retryStrategy(AwsRetryStrategy.doNotRetry()))
                .build()) {
            s3.listObjectsV2(r -> r.bucket(args[1])).contents().forEach(o -> System.out.println(o.key()));
        }
    }
}
