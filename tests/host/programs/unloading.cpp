// Libraries that come and go, one in the other's place: what is remembered must not outlive them.
#include <cstdio>
#include <dlfcn.h>
#include <string>

int main(int, char **arguments) {
    std::string folder = arguments[0];
    folder.resize(folder.rfind('/') + 1);
    for (int i = 0; i < 50; i++) {
        for (const char *name : {"plugin_a.so", "plugin_b.so"}) {
            void *library = dlopen((folder + name).c_str(), RTLD_NOW | RTLD_LOCAL);
            if (!library) {
                std::printf("%s\n", dlerror());
                return 1;
            }
            auto run = (int (*)(int))dlsym(library, "run");
            for (int n = 0; n < 3; n++) {
                try {
                    std::printf("%s returned %d\n", name, run(n));
                } catch (int thrown) {
                    std::printf("%s threw %d\n", name, thrown);
                }
            }
            dlclose(library);
        }
    }
}
