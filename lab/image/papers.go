package image

import (
	"cmp"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"strings"
)

// Papers writes what goes with an archive, beside it: NAME.spdx.json, a bill of materials (SPDX 2.3) of the modules
// that are linked into binary, and NAME.provenance.json, how it was built (an in-toto statement of SLSA provenance
// v1). Nothing is signed; both follow from the binary alone. sum is the archive's digest, as WriteFile returns it.
func Papers(archive, ref, sum, binary string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return fmt.Errorf("read build information of %s: %w", binary, err)
	}
	base := strings.TrimSuffix(archive, ".tar")
	return errors.Join(
		writeJSON(base+".spdx.json", bill(ref, sum, info)),
		writeJSON(base+".provenance.json", provenance(archive, ref, sum, info)),
	)
}

func writeJSON(name string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := os.WriteFile(name, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write papers: %w", err)
	}
	return nil
}

type object = map[string]any

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// modules are all that is linked in, replaced ones as what replaces them. The first is the program's own.
func modules(info *debug.BuildInfo) []debug.Module {
	out := []debug.Module{info.Main}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		out = append(out, *m)
	}
	return append(out, debug.Module{Path: "std", Version: strings.TrimPrefix(info.GoVersion, "go")})
}

func purl(m debug.Module) string { return "pkg:golang/" + m.Path + "@" + m.Version }

// bill follows SPDX 2.3. A module's go.sum hash is of no kind that SPDX knows, so it is a comment.
func bill(ref, sum string, info *debug.BuildInfo) object {
	const none = "NOASSERTION"
	var packages, relations []object
	for i, m := range modules(info) {
		id := fmt.Sprintf("SPDXRef-Package-%d", i)
		p := object{
			"SPDXID": id, "name": m.Path, "versionInfo": m.Version, "downloadLocation": none, "filesAnalyzed": false,
			"licenseConcluded": none, "licenseDeclared": none, "copyrightText": none,
			"externalRefs": []object{{"referenceCategory": "PACKAGE-MANAGER", "referenceType": "purl", "referenceLocator": purl(m)}},
		}
		if m.Sum != "" {
			p["comment"] = "go.sum " + m.Sum
		}
		packages = append(packages, p)
		relation := object{"spdxElementId": "SPDXRef-Package-0", "relationshipType": "DEPENDS_ON", "relatedSpdxElement": id}
		if i == 0 {
			relation = object{"spdxElementId": "SPDXRef-DOCUMENT", "relationshipType": "DESCRIBES", "relatedSpdxElement": id}
		}
		relations = append(relations, relation)
	}
	return object{
		"spdxVersion": "SPDX-2.3", "dataLicense": "CC0-1.0", "SPDXID": "SPDXRef-DOCUMENT", "name": ref,
		"documentNamespace": "https://github.com/barelb/barelb/spdx/" + strings.TrimPrefix(sum, "sha256:"),
		"creationInfo":      object{"created": cmp.Or(setting(info, "vcs.time"), "1970-01-01T00:00:00Z"), "creators": []string{"Tool: mkimage"}},
		"packages":          packages, "relationships": relations,
	}
}

// provenance follows https://slsa.dev/spec/v1.0/provenance.
func provenance(archive, ref, sum string, info *debug.BuildInfo) object {
	settings := object{"go": info.GoVersion}
	for _, s := range info.Settings {
		settings[s.Key] = s.Value
	}
	var inputs []object
	for i, m := range modules(info) {
		switch commit := setting(info, "vcs.revision"); {
		case i > 0:
			inputs = append(inputs, object{"uri": purl(m), "annotations": object{"go.sum": m.Sum}})
		case commit != "":
			inputs = append(inputs, object{"uri": "git+https://" + m.Path, "digest": object{"gitCommit": commit}})
		}
	}
	return object{
		"_type": "https://in-toto.io/Statement/v1", "predicateType": "https://slsa.dev/provenance/v1",
		"subject": []object{{"name": archive[strings.LastIndexByte(archive, '/')+1:], "digest": object{"sha256": strings.TrimPrefix(sum, "sha256:")}}},
		"predicate": object{
			"buildDefinition": object{
				"buildType":            "https://github.com/barelb/barelb/make-image/v1",
				"externalParameters":   object{"image": ref},
				"internalParameters":   settings,
				"resolvedDependencies": inputs,
			},
			"runDetails": object{"builder": object{"id": "https://github.com/barelb/barelb/make-image"}},
		},
	}
}
