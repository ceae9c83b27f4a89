// What the kernels of one instruction set offer (network.h): everything they need is compiled here, once for each.
#include "decoder.h"
#include "encoder.h"
#include "gemm.h"

namespace quintet::QUINTET_ISA {

// -- a single product -----------------------------------------------------------------------------------------------

template <int L>
static void multiply_blocks(const Product &job, Team &team, int64_t member) {
    const quintet_matrix &w = job.w;
    quintet_model model{};
    model.d_model = w.inputs;
    Pass<L> pass{model, job.space, team, member, (job.tokens + L - 1) / L};
    share(team, pass.panels, [&](int64_t panel) {
        float *block = pass.states(panel);
        for (int64_t lane = 0; lane < L; lane++)
            for (int64_t i = 0; i < w.inputs; i++) {
                int64_t token = panel * L + lane;
                block[i * L + lane] = token < job.tokens ? job.numbers[token * w.inputs + i] : 0.f;
            }
    });
    pass.products({&w}, pass.rounded(job.space.states, w, pass.panels), {job.space.wide[0]});
    share(team, pass.panels, [&](int64_t panel) {
        for (int64_t lane = 0; lane < L && panel * L + lane < job.tokens; lane++)
            for (int64_t n = 0; n < w.outputs; n++)
                job.result[(panel * L + lane) * w.outputs + n] = job.space.wide[0][(panel * w.outputs + n) * L + lane];
    });
}

static void multiply_any(const Product &job, Team &team, int64_t member) {
    Tiles tiles;
    if (job.many) multiply_blocks<LANES>(job, team, member);
    else multiply_blocks<1>(job, team, member);
}

}  // namespace quintet::QUINTET_ISA

namespace quintet {

#define JOIN(a, b) a##b
#define NAMED(isa) JOIN(isa, _network)
#define TEXT(name) #name
#define QUOTED(name) TEXT(name)

const Network &NAMED(QUINTET_ISA)() {
    // `few`, of float32, bfloat16, int8 and int4: measured where both kinds of kernels take the same time.
    static const Network network = {QUOTED(QUINTET_ISA),
#if defined(__AMX_TILE__)
                                    {12, 5, 6, 8},
#elif defined(__AVX512F__)
                                    {24, 24, 24, 12},
#elif defined(__AVX2__)
                                    {12, 8, 8, 8},
#else
                                    {8, 8, 8, 8},
#endif
                                    QUINTET_ISA::encode,
                                    QUINTET_ISA::read_sources,
                                    QUINTET_ISA::take_any_step,
                                    QUINTET_ISA::multiply_any,
                                    QUINTET_ISA::gemm};
    return network;
}

}  // namespace quintet
