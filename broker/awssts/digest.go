package awssts

import (
	"fmt"
	"reflect"
	"strconv"

	"github.com/stsbroker/stsbroker/broker"
)

// digestOf covers a whole SDK input, whatever fields it has or will have, and
// where it is sent. from are the sources of what reaches the input only at the
// time of a mint, such as an identity token.
func digestOf(action string, at Site, e Endpoint, input any, from ...broker.Digest) broker.Digest {
	params := flatten(nil, "site", reflect.ValueOf(at))
	params = flatten(params, "endpoint", reflect.ValueOf(e))
	params = flatten(params, "input", reflect.ValueOf(input))
	for _, d := range from {
		params = append(params, "from", d.String())
	}
	return broker.DigestOf("sts:"+action, params...)
}

// flatten lists every field that is set, each with its path. A field that is
// not sent (nil) is left out, so it differs from one that is sent empty.
func flatten(out []string, path string, v reflect.Value) []string {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return out
		}
		return flatten(out, path, v.Elem())
	case reflect.Struct:
		out = append(out, path, "") // also one without fields was set
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				out = flatten(out, path+"."+f.Name, v.Field(i))
			}
		}
		return out
	case reflect.Slice:
		if v.IsNil() {
			return out
		}
		out = append(out, path, strconv.Itoa(v.Len()))
		for i := range v.Len() {
			out = flatten(out, fmt.Sprintf("%s[%d]", path, i), v.Index(i))
		}
		return out
	case reflect.String:
		return append(out, path, v.String())
	case reflect.Bool:
		return append(out, path, strconv.FormatBool(v.Bool()))
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return append(out, path, strconv.FormatInt(v.Int(), 10))
	}
	// Leaving a field out would let two different mints share a lease.
	panic("awssts: no digest of " + path + ", a " + v.Type().String())
}
