package custody

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
)

// Vault is broker/vault.Vault, as far as a sealed chest needs it.
type Vault interface {
	// Read returns what is sealed under the name; the error is [fs.ErrNotExist] where
	// there is nothing.
	Read(name string) ([]byte, error)
	// Update replaces it by what f makes of it, nil for nothing, while nobody else
	// changes it. An error of f changes nothing.
	Update(name string, f func(old []byte) ([]byte, error)) error
}

// SealedChest keeps all records in one sealed blob of the vault, named "keys".
func SealedChest(v Vault) Chest { return sealedChest{v} }

type sealedChest struct{ vault Vault }

const (
	keysBlob        = "keys"
	sealedVersion   = 1
	maxSealedRecord = 1000
)

// errUnchanged ends an update that has nothing to write.
var errUnchanged = errors.New("nothing changed")

// sealedJSON is what is sealed.
type sealedJSON struct {
	Version int               `json:"version"`
	Records map[string][]byte `json:"records"`
}

func (c sealedChest) Get(_ context.Context, name string) ([]byte, error) {
	m, err := c.all()
	if err != nil {
		return nil, err
	}
	raw, ok := m[name]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return raw, nil
}

func (c sealedChest) Put(_ context.Context, name string, record []byte) error {
	return c.vault.Update(keysBlob, func(old []byte) ([]byte, error) {
		m, err := decodeSealed(old)
		if err != nil {
			return nil, err
		}
		m[name] = record
		if len(m) > maxSealedRecord {
			return nil, fault("there are %d keys already, and no more than that are kept: remove some", maxSealedRecord)
		}
		return json.Marshal(sealedJSON{sealedVersion, m})
	})
}

func (c sealedChest) Delete(_ context.Context, name string) error {
	err := c.vault.Update(keysBlob, func(old []byte) ([]byte, error) {
		m, err := decodeSealed(old)
		if err != nil {
			return nil, err
		}
		if _, ok := m[name]; !ok {
			return nil, errUnchanged
		}
		delete(m, name)
		return json.Marshal(sealedJSON{sealedVersion, m})
	})
	if errors.Is(err, errUnchanged) {
		return nil
	}
	return err
}

// all returns every record; none where nothing was sealed yet.
func (c sealedChest) all() (map[string][]byte, error) {
	plain, err := c.vault.Read(keysBlob)
	if errors.Is(err, fs.ErrNotExist) {
		return map[string][]byte{}, nil
	}
	if err != nil {
		return nil, err
	}
	return decodeSealed(plain)
}

// decodeSealed reads what was sealed, nil for nothing.
func decodeSealed(plain []byte) (map[string][]byte, error) {
	if plain == nil {
		return map[string][]byte{}, nil
	}
	var head struct {
		Version int `json:"version"`
	}
	if json.Unmarshal(plain, &head) == nil && head.Version > sealedVersion {
		return nil, fault("the sealed keys have version %d, and this stsbroker knows %d: use the newer stsbroker that wrote them", head.Version, sealedVersion)
	}
	var j sealedJSON
	if strict(plain, &j) != nil || j.Version != sealedVersion || j.Records == nil { // the decoder's own words may quote it
		return nil, fault("what is sealed as %s in the state folder is no list of keys: restore that file from a backup; it was left as it is", keysBlob)
	}
	return j.Records, nil
}
