package custody

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/stsbroker/stsbroker/broker"
	"github.com/stsbroker/stsbroker/internal/awsini"
	"github.com/stsbroker/stsbroker/internal/securefile"
)

// File is the key in a section of an AWS credentials file. The file is read
// again at every call, so an edited key counts from the next mint on.
//
// It is refused if somebody else could change it, see [securefile.CheckWriters].
func File(credentials, section string) Source {
	return Profile("", credentials, section)
}

// Profile is the key in an AWS profile: in its section of the credentials file
// or else of the config file, as SDKs merge the two. Otherwise it is like
// [File]. A path may be "".
func Profile(config, credentials, profile string) Source {
	return func(context.Context) (broker.Material, error) {
		return readKey(config, credentials, profile)
	}
}

func readKey(config, credentials, name string) (broker.Material, error) {
	where := fmt.Sprintf("section [%s] of %s", awsini.Shown(name), credentials)
	if config != "" {
		where += fmt.Sprintf(" or profile %s of %s", awsini.Shown(name), config)
	}
	profile, err := find(config, credentials, name)
	if err != nil {
		return broker.Material{}, err
	}
	if profile == nil {
		return broker.Material{}, fault("there is no %s: add it, with %s and %s", where, awsini.KeyID, awsini.SecretKey)
	}
	if len(profile.Faults) > 0 {
		return broker.Material{}, fault("%s", profile.Faults[0])
	}
	value := func(key string) half {
		p, _ := profile.Get(key)
		return half{key, p.Value}
	}
	id, _ := profile.Get(awsini.KeyID)
	if id.File != "" {
		where = fmt.Sprintf("the section at %s:%d", id.File, id.Header)
	}
	return material(where, value(awsini.KeyID), value(awsini.SecretKey), value(awsini.SessionToken))
}

// find returns the merged profile, nil if neither file has it.
func find(config, credentials, name string) (*awsini.Profile, error) {
	var files [2]*awsini.File
	for i, path := range []string{config, credentials} {
		if path == "" {
			continue
		}
		f, err := awsini.Read(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault("%s cannot be read: %v", path, cause(err))
		}
		files[i] = f
	}
	profiles, _ := awsini.Profiles(files[0], files[1])
	for _, p := range profiles {
		if p.Name != name {
			continue
		}
		// Only the file that the key stands in has to be safe here; whoever
		// reads the rest of the config file judges that.
		for _, f := range files {
			if id, ok := p.Get(awsini.KeyID); ok && f != nil && f.Path == id.File {
				if err := safe(f); err != nil {
					return nil, err
				}
			}
		}
		return p, nil
	}
	return nil, nil
}

// cause strips the path that an error repeats.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// safe refuses a file that somebody else could change.
func safe(f *awsini.File) error {
	if f.Info == nil { // the null device
		return nil
	}
	if err := securefile.CheckWriters(f.Path, f.Info); err != nil {
		return fault("%s is not read for keys: %v", f.Path, err)
	}
	return nil
}

// Exposed says in one line, with its cure, that a file of keys can be read by
// others; "" if it cannot, or is not there. Keys are served from it all the
// same, as SDKs do: this is for a warning.
func Exposed(path string) string {
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || !readable(info) {
		return ""
	}
	return fmt.Sprintf("%s can be read by other users (mode %04o): chmod 600 %s", path, info.Mode().Perm(), path)
}
