package awsconfig

import "testing"

func TestEffectiveEndpoint(t *testing.T) {
	file := Endpoint{Legacy: On, FIPS: On, DualStack: Off, IgnoreURLs: On, URL: "https://x", URLPlace: "C:1"}
	custom := Endpoint{URL: "https://x", URLPlace: "C:1"}
	for name, c := range map[string]struct {
		in   Endpoint
		env  map[string]string
		want Endpoint
		err  string
	}{
		"nothing":                  {},
		"the environment alone":    {Endpoint{}, map[string]string{"AWS_STS_REGIONAL_ENDPOINTS": "legacy", "AWS_USE_FIPS_ENDPOINT": "True", "AWS_USE_DUALSTACK_ENDPOINT": "true", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "TRUE"}, Endpoint{Legacy: On, FIPS: On, DualStack: On, IgnoreURLs: On}, ""},
		"the file alone":           {file, map[string]string{"AWS_USE_FIPS_ENDPOINT": ""}, Endpoint{Legacy: On, FIPS: On, DualStack: Off, IgnoreURLs: On}, ""},
		"the environment wins":     {file, map[string]string{"AWS_STS_REGIONAL_ENDPOINTS": "regional", "AWS_USE_FIPS_ENDPOINT": "false", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}, Endpoint{Legacy: Off, FIPS: Off, DualStack: Off, IgnoreURLs: Off, URL: "https://x", URLPlace: "C:1"}, ""},
		"a url":                    {custom, nil, custom, ""},
		"a url that is ignored":    {custom, map[string]string{"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true", "AWS_USE_FIPS_ENDPOINT": "true"}, Endpoint{IgnoreURLs: On, FIPS: On}, ""},
		"a url and legacy":         {custom, map[string]string{"AWS_STS_REGIONAL_ENDPOINTS": "legacy"}, Endpoint{Legacy: On, URL: "https://x", URLPlace: "C:1"}, ""},
		"a url and fips":           {custom, map[string]string{"AWS_USE_FIPS_ENDPOINT": "true"}, Endpoint{}, "C:1: endpoint_url and use_fips_endpoint (or AWS_USE_FIPS_ENDPOINT) exclude each other: switch one of them off"},
		"a url and dual-stack":     {Endpoint{DualStack: On, URL: "u", URLPlace: "C:1"}, nil, Endpoint{}, "C:1: endpoint_url and use_dualstack_endpoint (or AWS_USE_DUALSTACK_ENDPOINT) exclude each other: switch one of them off"},
		"a variable without sense": {Endpoint{}, map[string]string{"AWS_USE_FIPS_ENDPOINT": "1"}, Endpoint{}, "AWS_USE_FIPS_ENDPOINT is neither true nor false: correct it, or unset it"},
		"another":                  {file, map[string]string{"AWS_STS_REGIONAL_ENDPOINTS": "true"}, Endpoint{}, "AWS_STS_REGIONAL_ENDPOINTS is neither legacy nor regional: correct it, or unset it"},
	} {
		in := c.in
		got, err := c.in.Effective(func(k string) string { return c.env[k] })
		if c.err == "" && err != nil || c.err != "" && (err == nil || err.Error() != c.err) {
			t.Errorf("%s: error %v, want %q", name, err, c.err)
		}
		if got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
		if c.in != in {
			t.Errorf("%s: the receiver was changed to %+v", name, c.in)
		}
	}
}
