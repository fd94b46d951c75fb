# The backend's bucket comes from list.sh, its endpoint, region and credentials
# from the environment. An empty prefix for workspaces lists the whole bucket.
terraform {
  backend "s3" {
    key                         = "terraform.tfstate"
    workspace_key_prefix        = ""
    use_path_style              = true
    max_retries                 = 1
    skip_credentials_validation = true # they would go to STS
    skip_requesting_account_id  = true
    skip_region_validation      = true
  }
}
